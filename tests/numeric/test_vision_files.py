"""What the runner reads: checkpoints of every kind, images of every kind, and folders of classes."""

from __future__ import annotations

import argparse
import os
import random
import shlex
import struct
import subprocess
import sys
import zlib
from dataclasses import replace

import images
import pytest
import torch
from answers import Refusal
from checkpoints import fit, read_state
from models import VISION, Vision
from PIL import Image
from vim import build
from vision_tasks import evaluate, infer

SMALL = Vision(32, depth=2, size=64, classes=7)


@pytest.fixture
def state():
    return build(SMALL).state_dict()


# Checkpoints ----------------------------------------------------------------------------------------------


class Greedy:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


FORMATS = ["plain", "model", "distributed", "safetensors", "with arguments", "old format"]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_tensors(kind, state, tmp_path):
    path = tmp_path / "weights.pth"
    if kind == "safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    else:
        whole = {
            "model": {"model": state, "epoch": 3},
            "distributed": {"model": {f"module.{name}": value for name, value in state.items()}},
            "with arguments": {"model": state, "args": argparse.Namespace(lr=1e-3, model="vim"), "epoch": 3},
        }.get(kind, state)
        torch.save(whole, path, _use_new_zipfile_serialization=kind != "old format")
    found = read_state(path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())


def refused(path):
    with pytest.raises(Refusal) as refusal:
        read_state(path)
    return refusal.value.fields


def test_a_pickle_that_runs_code_is_refused_and_runs_none(state, tmp_path):
    for number, zipped in enumerate((True, False)):
        path, made = tmp_path / f"{number}.pth", tmp_path / "made"
        torch.save({"model": state, "x": Greedy(made)}, path, _use_new_zipfile_serialization=zipped)
        fields = refused(path)
        assert "would run code" in fields["what"]
        assert "mkdir" in fields["found"]
        assert not made.exists()


@pytest.mark.parametrize("version", ["2.4.1", "2.5.1+cpu", "2.6.0a0+ecf3bae40a.nv25.01"])
def test_a_torch_without_safe_pickles_refuses_them_and_converts(version, state, tmp_path, monkeypatch):
    path, made = tmp_path / "FILE.pth", tmp_path / "made"
    torch.save({"model": state, "x": Greedy(made)}, path)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", version)
        fields = refused(path)
        assert fields["kind"] == "run"
        assert version in fields["found"]
        assert not made.exists()
    torch.save({"model": state, "args": argparse.Namespace(lr=1e-3)}, path)
    command = fields["hint"].partition("\n")[2].replace("python ", f"{shlex.quote(sys.executable)} ", 1)
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", version)
        found = read_state(tmp_path / "FILE.safetensors")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_a_damaged_checkpoint_is_called_so(state, tmp_path):
    whole = tmp_path / "whole.pth"
    torch.save(state, whole)
    data = whole.read_bytes()
    damaged = {
        "cut": data[: len(data) // 2],
        "empty": b"",
        "text": b"<html>not found</html>",
        "list": None,
        "no tensors": None,
        "safetensors": struct.pack("<Q", 1 << 40) + b'{"a": 1}',
    }
    for name, content in damaged.items():
        path = tmp_path / f"{name}.pth"
        if content is None:
            torch.save([1, 2] if name == "list" else {"model": {"epoch": 3}}, path)
        else:
            path.write_bytes(content)
        fields = refused(path)
        assert fields["kind"] == "run", name
        assert "not a checkpoint, or not a whole one" in fields["what"]
    assert refused(tmp_path / "absent.pth")["kind"] == "usage"


def test_a_checkpoint_of_another_model_is_named():
    for name in ("vim-small", "vim-tiny-stride8", "vim-tiny-rope", "vim-tiny-rope-mean"):
        other = tensors(VISION[name])
        with pytest.raises(Refusal) as refusal:
            fit("vim-tiny", VISION["vim-tiny"], other, "x.pth")
        assert refusal.value.fields["found"] == name
        assert refusal.value.fields["hint"] == f"--model {name}"
        assert fit(name, VISION[name], other, "x.pth") == VISION[name]


def tensors(shape):
    """The names and shapes of a model's tensors, without their values."""
    with torch.device("meta"):
        from vim import VisionMamba

        return VisionMamba(shape).state_dict()


@pytest.mark.parametrize(
    ("other", "found"),
    [
        ({"conv1.weight": (64, 3, 7, 7)}, "unknown, such as conv1.weight"),
        ({"backbone.embedding.weight": (50280, 768)}, "a Mamba language model"),
        ("wider", "a Vision Mamba of width 48, 2 blocks"),
        ("without its head", "2 missing, such as head.weight"),
        ("with one more", "1 unknown, such as extra"),
    ],
)
def test_any_other_checkpoint_is_described(other, found, state):
    if other == "wider":
        given = tensors(replace(SMALL, width=48))
    elif other == "without its head":
        given = {name: value for name, value in state.items() if not name.startswith("head.")}
    elif other == "with one more":
        given = {**state, "extra": torch.zeros(1)}
    else:
        given = {name: torch.empty(shape, device="meta") for name, shape in other.items()}
    with pytest.raises(Refusal) as refusal:
        fit("mine", SMALL, given, "x.pth")
    assert found in refusal.value.fields["found"]


def test_classes_and_image_size_follow_the_checkpoint():
    own = replace(VISION["vim-tiny"], classes=10, size=384)
    assert fit("vim-tiny", VISION["vim-tiny"], tensors(own), "x.pth") == own


# Images ---------------------------------------------------------------------------------------------------


@pytest.fixture
def photo():
    """A picture that is unlike itself when turned, and has every colour."""
    red, green = Image.linear_gradient("L").resize((90, 60)), Image.radial_gradient("L").resize((90, 60))
    return Image.merge("RGB", [red, green, red.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])


def expected(photo, size=32):
    """By definition: the short side to size / 0.875, the middle, and each channel by ImageNet's numbers."""
    short = int(size / 0.875)
    scale = short / min(photo.size)
    scaled = photo.resize([int(side * scale + 1e-9) for side in photo.size], Image.BICUBIC)
    left, top = (round((side - size) / 2) for side in scaled.size)
    rows = [
        [[scaled.getpixel((left + x, top + y))[c] / 255 for x in range(size)] for y in range(size)]
        for c in range(3)
    ]
    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    out = [(torch.tensor(rows[c], dtype=torch.float64) - mean[c]) / deviation[c] for c in range(3)]
    return torch.stack(out)


def assert_seen(path, photo, loose=1e-5, **options):
    torch.testing.assert_close(images.read(path, 32, **options).double(), expected(photo), rtol=0, atol=loose)


def test_an_image_is_seen_as_the_original_sees_it(photo, tmp_path):
    for picture in (photo, photo.resize((60, 90)), photo.resize((48, 48)), photo.resize((300, 37))):
        picture.save(tmp_path / "photo.png")
        assert_seen(tmp_path / "photo.png", picture)


def test_the_crop_of_a_model_s_own_size(photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    assert images.read(tmp_path / "photo.png", 224).shape == (3, 224, 224)


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "YCbCr", "LA", "RGBA", "I;16"])
def test_every_mode_becomes_red_green_and_blue(mode, photo, tmp_path):
    path = tmp_path / ("photo.tif" if mode == "YCbCr" else "photo.png" if mode != "CMYK" else "photo.jpg")
    if mode == "I;16":
        grey = photo.convert("L")
        deep = Image.new("I;16", grey.size)
        deep.putdata([value * 257 for value in grey.tobytes()])
        deep.save(path)
        assert_seen(path, grey.convert("RGB"), 0.03)
        return
    picture = photo.convert(mode)
    picture.save(path, **({"quality": 100, "subsampling": 0} if mode == "CMYK" else {}))
    loose = 0.2 if mode == "CMYK" else 1e-5  # JPEG's own loss: a few of 255 steps
    assert_seen(path, picture.convert("RGB"), loose)
    assert_seen(path, picture.convert("RGB"), loose, upright=False)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_its_camera_says(orientation, photo, tmp_path):
    """Stored so that turning it as the tag asks gives the photograph back."""
    undo = [None, None, 0, 3, 1, 5, 2, 6, 4][orientation]  # each of PIL's turns, inverted
    stored = photo if undo is None else photo.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.png", exif=exif)
    assert_seen(tmp_path / "photo.png", photo)
    assert_seen(tmp_path / "photo.png", stored, upright=False)


def test_what_is_transparent_lies_on_white(photo, tmp_path):
    clear = photo.copy()
    clear.putalpha(0)
    clear.save(tmp_path / "clear.png")
    assert_seen(tmp_path / "clear.png", Image.new("RGB", photo.size, "white"))
    assert_seen(tmp_path / "clear.png", photo, upright=False)
    half = photo.convert("P")
    half.info["transparency"] = half.getpixel((0, 0))
    half.save(tmp_path / "half.png", transparency=half.getpixel((0, 0)))
    assert images.read(tmp_path / "half.png", 32).shape == (3, 32, 32)


def png(width, height):
    """The header of a PNG of this size, and no pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("text.jpg", "is not an image"),
        ("empty.jpg", "is not an image"),
        ("cut.jpg", "is not a whole image"),
        ("cut.png", "is not a whole image"),
        ("huge.png", "too large to decode safely"),
        ("enormous.png", "too large to decode safely"),
        ("strip.png", "too large to decode safely"),
        ("absent.jpg", "There is no image"),
        ("folder.jpg", "cannot be read"),
    ],
)
def test_bad_images_are_refused_with_the_reason(name, what, photo, tmp_path):
    noise = Image.frombytes("RGB", (200, 200), random.Random(0).randbytes(200 * 200 * 3))
    noise.save(tmp_path / "whole.jpg")
    noise.save(tmp_path / "whole.png")
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    for suffix in ("jpg", "png"):
        data = (tmp_path / f"whole.{suffix}").read_bytes()
        (tmp_path / f"cut.{suffix}").write_bytes(data[: len(data) // 2])
    (tmp_path / "huge.png").write_bytes(png(10_000, 10_000))
    (tmp_path / "enormous.png").write_bytes(png(100_000, 100_000))
    Image.new("RGB", (60_000, 2)).save(tmp_path / "strip.png")
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(Refusal, match=what):
        images.read(tmp_path / name, 224)


# Folders of classes ---------------------------------------------------------------------------------------


def asked(**fields):
    return {
        "model": "vim-tiny",
        "threads": 1,
        "device": "cpu",
        "checkpoint": None,
        "size": 32,
        "depth": 1,
        "labels": [],
        "wnids": [f"n{number:08}" for number in range(1000)],
        "batch": 1,
        **fields,
    }


def folders(root, photo, *names):
    for name in names:
        (root / name / "deeper").mkdir(parents=True)
        photo.save(root / name / "a.png")
        photo.rotate(90).save(root / name / "deeper" / "b.JPEG")
        (root / name / "notes.txt").write_text("not counted")
    return str(root)


def likeliest(photo, tmp_path):
    """The class that the random model sees in the picture, by infer."""
    photo.save(tmp_path / "one.png")
    answer = infer(asked(images=[str(tmp_path / "one.png")], top=3))
    (image,) = answer["images"]
    assert len(image["classes"]) == 3
    chances = [item["probability"] for item in image["classes"]]
    assert chances == sorted(chances, reverse=True)
    return [item["index"] for item in image["classes"]]


def test_weights_that_are_no_numbers_are_found_out(photo, tmp_path):
    state = build(replace(VISION["vim-tiny"], size=32, depth=1)).state_dict()
    state["head.bias"][3] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    photo.save(tmp_path / "one.png")
    with pytest.raises(Refusal, match="gave no numbers"):
        infer(asked(images=[str(tmp_path / "one.png")], checkpoint=str(tmp_path / "nan.pth"), top=5))


@pytest.mark.parametrize("batch", [1, 3])
def test_a_class_is_right_when_its_folder_says_so(batch, photo, tmp_path):
    first, second, _ = likeliest(photo, tmp_path)
    wnids = asked()["wnids"]
    data = folders(tmp_path / "data", photo, wnids[first], wnids[second])
    found = evaluate(asked(data=data, batch=batch))
    assert (found["images"], found["classes"], found["unreadable"]) == (4, 2, [])
    names = [f"class {number}" for number in range(1000)]
    data = folders(tmp_path / "named", photo, names[first])
    assert evaluate(asked(data=data, labels=names))["top5"] >= 1
    exact = folders(tmp_path / "exact", photo, wnids[first])
    for path in (tmp_path / "exact").rglob("b.JPEG"):
        path.unlink()
    found = evaluate(asked(data=exact, batch=batch))
    assert (found["images"], found["top1"], found["top5"]) == (1, 1, 1)
    wrong = next(number for number in range(1000) if number not in (first, second))
    (tmp_path / "exact" / wnids[first]).rename(tmp_path / "exact" / wnids[wrong])
    assert evaluate(asked(data=exact))["top1"] == 0


def test_folders_in_sorted_order_must_be_as_many_as_the_classes(photo, tmp_path):
    state = build(replace(VISION["vim-tiny"], size=32, depth=1, classes=3)).state_dict()
    torch.save({"model": state}, tmp_path / "own.pth")
    data = folders(tmp_path / "data", photo, "ant", "bee", "cat")
    found = evaluate(asked(data=data, checkpoint=str(tmp_path / "own.pth"), size=None))
    assert (found["images"], found["classes"]) == (6, 3)
    assert found["top5"] == 6  # there are but three
    with pytest.raises(Refusal, match="do not say which classes"):
        evaluate(asked(data=data))


def test_a_folder_without_images_or_folders_is_refused(photo, tmp_path):
    with pytest.raises(Refusal, match="There is no folder"):
        evaluate(asked(data=str(tmp_path / "absent")))
    with pytest.raises(Refusal, match="There are no folders"):
        evaluate(asked(data=str(tmp_path)))
    (tmp_path / "n00000001").mkdir()
    with pytest.raises(Refusal, match="There are no images"):
        evaluate(asked(data=str(tmp_path)))
    (tmp_path / "n00000001" / "bad.jpg").write_text("x")
    with pytest.raises(Refusal, match="None of the images"):
        evaluate(asked(data=str(tmp_path)))
    photo.save(tmp_path / "n00000001" / "good.jpg")
    found = evaluate(asked(data=str(tmp_path)))
    assert found["images"] == 1
    assert [item["path"] for item in found["unreadable"]] == [str(tmp_path / "n00000001" / "bad.jpg")]
