"""Classes of images: ``infer`` for single images, ``evaluate`` for a folder of classes."""

import os
import time
from dataclasses import replace
from pathlib import Path

import images
import torch
import vim
from answers import Refusal, send
from checkpoints import fit, read_state
from device import peak_bytes
from models import VISION
from setting import facts, prepare


def load(request):
    """The model requested, its device, and the seconds that loading took."""
    started = time.perf_counter()
    device = prepare(request["threads"], request["device"])
    name, path = request["model"], request.get("checkpoint")
    shape, state = VISION[name], None
    for field in ("size", "depth"):
        if request[field]:
            shape = replace(shape, **{field: request[field]})
    if path is not None:
        send(stage=f"reading {Path(path).name}")
        state = read_state(path)
        shape = fit(name, shape, state, path, request["size"])
    send(stage=f"making {name}")
    model = vim.build(shape, state, device=device)
    return model, device, time.perf_counter() - started


def infer(request):
    """The most probable classes of each image."""
    model, device, seconds = load(request)
    answers = []
    for done, path in enumerate(request["images"]):
        send(stage=Path(path).name, done=done, total=len(request["images"]))
        started = time.perf_counter()
        image = images.read(path, model.shape.size)[None].to(device)
        ready = time.perf_counter()
        chances = logits(model, image).softmax(dim=-1)[0]
        finished = time.perf_counter()
        if not chances.isfinite().all():
            raise Refusal(
                "run",
                f"The model gave no numbers for {path}",
                found="NaN",
                hint="the checkpoint holds NaN or infinity; fetch it from its source again",
            )
        top = chances.topk(min(request["top"], len(chances)))
        classes = [
            {"index": index, "probability": chance}
            for index, chance in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]
        answers.append(
            {"path": path, "classes": classes, "read_seconds": ready - started, "seconds": finished - ready}
        )
    return {
        "model": request["model"],
        "checkpoint": request.get("checkpoint"),
        "class_count": model.shape.classes,
        "size": model.shape.size,
        "load_seconds": seconds,
        "images": answers,
        "peak_bytes": peak_bytes(),
        "environment": facts(device),
    }


@torch.inference_mode()
def logits(model, batch):
    """(batch, classes) on the CPU, which waits for the GPU."""
    return model(batch).float().cpu()


def evaluate(request):
    """Counts how often the images of a folder get the class that the folder stands for."""
    model, device, _ = load(request)
    chosen = classes_of(request, model.shape.classes)
    files = [(path, index) for index, folder in chosen for path in image_files(folder)]
    if not files:
        raise Refusal(
            "run",
            f"There are no images in {request['data']}",
            found=f"{len(chosen)} folders without a file of these kinds: {' '.join(images.SUFFIXES)}",
            expected="one folder for each class, with its images in it",
            hint="put the images into one folder for each class, below the folder of --data",
        )
    counts, seconds, unreadable = {"images": 0, "top1": 0, "top5": 0}, 0.0, []
    started = time.perf_counter()
    for first in range(0, len(files), request["batch"]):
        batch, wanted = [], []
        for path, index in files[first : first + request["batch"]]:
            try:
                batch.append(images.read(path, model.shape.size, upright=False))
                wanted.append(index)
            except Refusal as refusal:
                unreadable.append({"path": path, **refusal.fields})
        if batch:
            before = time.perf_counter()
            out = logits(model, torch.stack(batch).to(device))
            seconds += time.perf_counter() - before
            right = out.topk(min(5, out.shape[1])).indices == torch.tensor(wanted)[:, None]
            counts["images"] += len(batch)
            counts["top1"] += int(right[:, 0].sum())
            counts["top5"] += int(right.sum())
        seen = counts["images"] or 1
        send(
            stage=f"top-1 {counts['top1'] / seen:.1%}  top-5 {counts['top5'] / seen:.1%}",
            done=min(first + request["batch"], len(files)),
            total=len(files),
        )
    if not counts["images"]:
        raise Refusal(
            "run",
            f"None of the images in {request['data']} could be read",
            unreadable[0]["what"],
            hint="`file` names the format of that file; --json lists every file that could not be read",
        )
    return {
        "model": request["model"],
        "checkpoint": request.get("checkpoint"),
        "data": request["data"],
        "classes": len(chosen),
        "batch": request["batch"],
        **counts,
        "seconds": seconds,
        "all_seconds": time.perf_counter() - started,
        "unreadable": unreadable,
        "peak_bytes": peak_bytes(),
        "environment": facts(device),
    }


def classes_of(request, count):
    """The class of each folder: pairs of the class's number and the folder.

    ImageNet's names (n01440764) have their numbers among the thousand. Names in the labels have their place
    in that list. Other names are numbered in sorted order, if there are as many as the model has classes.

    Raises:
        Refusal: there are no folders, or no rule fits them.
    """
    data, labels, wnids = request["data"], request["labels"], request["wnids"]
    try:
        names = sorted(entry.name for entry in os.scandir(data) if entry.is_dir())
    except OSError as fault:
        raise Refusal("usage", f"There is no folder {data}", fault.strerror, hint="check --data") from None
    if not names:
        raise Refusal(
            "run",
            f"There are no folders in {data}",
            expected="one folder for each class",
            hint="--data names the folder above: --data val for val/n01440764/*.JPEG",
        )
    places = {}
    for known in (labels, wnids if count == len(wnids) else []):
        if set(names) <= set(known):
            places = {name: known.index(name) for name in names}
            break
    else:
        if len(names) != count:
            other = next((name for name in names if name not in (labels or wnids)), names[0])
            raise Refusal(
                "run",
                f"The folders in {data} do not say which classes they are",
                found=f"{len(names)} folders, such as {other}",
                expected=f"ImageNet's names (n01440764), names of --labels, or {count} folders in the order "
                "of the model's classes",
                hint="give the names of the model's classes with --labels FILE, one a line",
            )
        places = {name: place for place, name in enumerate(names)}
    beyond = [name for name, place in places.items() if place >= count]
    if beyond:
        raise Refusal(
            "run",
            f"The model has {count} classes, and the folder {beyond[0]} is not one of them",
            hint="--labels FILE names exactly the model's classes, or choose the --model of the checkpoint",
        )
    return [(places[name], str(Path(data, name))) for name in names]


def image_files(folder):
    """The images in a folder and the folders below it, sorted."""
    found = [Path(top, name) for top, _, names in os.walk(folder, followlinks=True) for name in names]
    return sorted(str(path) for path in found if path.suffix.lower() in images.SUFFIXES)
