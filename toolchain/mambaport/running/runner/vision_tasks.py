"""Classes of images: ``infer`` for single images, ``evaluate`` for a folder of classes."""

import math
import os
import time
from pathlib import Path

import images
from answers import Refusal, send
from device import peak_bytes


def load(request):
    """The model requested, of the runtime requested, and the seconds that loading took."""
    started = time.perf_counter()
    if request.get("runtime") == "onnx":
        from onnx_vision import Classifier
    else:
        from torch_vision import Classifier
    return Classifier(request), time.perf_counter() - started


def infer(request):
    """The most probable classes of each image."""
    model, seconds = load(request)
    answers = []
    for done, path in enumerate(request["images"]):
        send(stage=Path(path).name, done=done, total=len(request["images"]))
        started = time.perf_counter()
        image = model.read(path)
        ready = time.perf_counter()
        (best,) = model.best([image], request["top"])
        finished = time.perf_counter()
        if not all(math.isfinite(chance) for _, chance in best):
            raise Refusal(
                "run",
                f"The model gave no numbers for {path}",
                found="NaN",
                hint="the checkpoint holds NaN or infinity; fetch it from its source again",
            )
        classes = [{"index": index, "probability": chance} for index, chance in best]
        answers.append(
            {"path": path, "classes": classes, "read_seconds": ready - started, "seconds": finished - ready}
        )
    return {
        "model": model.name,
        "checkpoint": model.checkpoint,
        "class_count": model.classes,
        "size": model.size,
        "load_seconds": seconds,
        "images": answers,
        "peak_bytes": peak_bytes(),
        "environment": model.facts(),
    }


def evaluate(request):
    """Counts how often the images of a folder get the class that the folder stands for."""
    model, _ = load(request)
    chosen = classes_of(request, model.classes)
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
                batch.append(model.read(path, upright=False))
                wanted.append(index)
            except Refusal as refusal:
                unreadable.append({"path": path, **refusal.fields})
        if batch:
            before = time.perf_counter()
            best = [[index for index, _ in row] for row in model.best(batch, 5)]
            seconds += time.perf_counter() - before
            counts["images"] += len(batch)
            counts["top1"] += sum(row[0] == index for row, index in zip(best, wanted, strict=True))
            counts["top5"] += sum(index in row for row, index in zip(best, wanted, strict=True))
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
        "model": model.name,
        "checkpoint": model.checkpoint,
        "data": request["data"],
        "classes": len(chosen),
        "batch": request["batch"],
        **counts,
        "seconds": seconds,
        "all_seconds": time.perf_counter() - started,
        "unreadable": unreadable,
        "peak_bytes": peak_bytes(),
        "environment": model.facts(),
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
