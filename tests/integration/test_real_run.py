"""infer, evaluate and bench as a user runs them, in environments that have what they need, or lack it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from helpers import check_page
from real import Ran, environment_with_torch, mambaport, with_wheels

pytestmark = pytest.mark.network
# A model so small that starting Python takes the most of the time.
SMALL = ("--size", "64", "--depth", "2", "--threads", "1")
DRAW = """
import sys
from PIL import Image
for number, path in enumerate(sys.argv[1:]):
    Image.radial_gradient("L").resize((90 + number, 60)).convert("RGB").save(path)
"""


@pytest.fixture(scope="module")
def python(cpu: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_wheels(tmp_path_factory.mktemp("run") / "whole", cpu)


@pytest.fixture(scope="module")
def photos(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of ImageNet, a photograph each."""
    root = tmp_path_factory.mktemp("photos")
    paths = [root / name / "photo.jpg" for name in ("n01440764", "n02123045")]
    for path in paths:
        path.parent.mkdir()
    subprocess.run([python, "-I", "-c", DRAW, *paths], check=True)
    return root


def run(python: Path, folder: Path, *words: str | Path) -> Ran:
    return mambaport(folder / "store", *words, *SMALL, "--python", python)


def test_an_image_has_five_classes_by_name(python: Path, photos: Path, tmp_path: Path) -> None:
    image = photos / "n01440764" / "photo.jpg"
    ran = run(python, tmp_path, "infer", "--image", image, "--image", image)
    answer = ran.good()
    first, second = answer["images"]
    assert first["classes"] == second["classes"]
    assert len(first["classes"]) == 5
    assert all(item["label"] and 0 < item["probability"] < 1 for item in first["classes"])
    assert first["seconds"] > 0
    assert answer["checkpoint"] is None
    assert answer["peak_bytes"] > 50_000_000
    assert answer["environment"]["threads"] == 1
    assert answer["environment"]["kernels"] is True


def test_people_are_told_that_random_weights_mean_nothing(python: Path, photos: Path) -> None:
    import sys

    image = photos / "n01440764" / "photo.jpg"
    words = [sys.executable, "-m", "mambaport", "infer", "--image", image, *SMALL, "--python", python]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "the weights are random" in done.stderr
    assert done.stdout.count("%") == 5  # the result


def test_a_checkpoint_says_which_model_it_belongs_to(python: Path, photos: Path, tmp_path: Path) -> None:
    save = (
        "import sys, torch; "
        "torch.save({'pos_embed': torch.zeros(1, 197, 384), 'cls_token': torch.zeros(1, 1, 384), "
        "'patch_embed.proj.weight': torch.zeros(384, 3, 16, 16), "
        "**{f'layers.{i}.mixer.A_b_log': torch.zeros(768, 16) for i in range(24)}}, sys.argv[1])"
    )
    subprocess.run([python, "-I", "-c", save, tmp_path / "small.pth"], check=True)
    image = photos / "n01440764" / "photo.jpg"
    words = ("infer", "--image", image, "--checkpoint", tmp_path / "small.pth", "--python", python)
    ran = mambaport(tmp_path / "store", *words)
    assert ran.code == 17
    assert ran.json["error"]["found"] == "vim-small"
    assert ran.json["error"]["hint"] == "--model vim-small"


def test_a_folder_is_evaluated(python: Path, photos: Path, tmp_path: Path) -> None:
    page = tmp_path / "accuracy.html"
    answer = run(python, tmp_path, "evaluate", "--data", photos, "--batch", "2", "--report", page).good()
    check_page(page.read_text(), alone=True)
    assert f"{answer['top1']} of {answer['images']}" in page.read_text()
    assert (answer["images"], answer["classes"], answer["batch"]) == (2, 2, 2)
    assert answer["top1"] <= answer["top5"] <= 2
    assert answer["images_per_second"] > 0
    (tmp_path / "empty" / "n01440764").mkdir(parents=True)
    ran = run(python, tmp_path, "evaluate", "--data", tmp_path / "empty")
    assert ran.code == 17
    assert "There are no images" in ran.json["error"]["what"]


def test_a_benchmark_is_a_table_a_file_and_a_plot(python: Path, tmp_path: Path) -> None:
    output, plotted = tmp_path / "result.json", tmp_path / "plot.svg"
    words = ("bench", "--compare", "fallback", "--seconds", "0.2", "-o", output, "--plot", plotted)
    answer = run(python, tmp_path, *words).good()
    default, fallback = answer["measures"]
    assert (default["variant"], fallback["variant"]) == ("default", "fallback")
    for item in answer["measures"]:
        assert item["runs"] >= 5
        assert item["least_ms"] <= item["p50_ms"] <= item["p95_ms"]
        assert item["per_second"] == pytest.approx(1e3 / item["p50_ms"])
    assert answer["machine"]["cores"] >= 1
    assert json.loads(output.read_text()) == answer
    ET.parse(plotted)
    page = tmp_path / "result.html"
    again = run(python, tmp_path, "bench", "--seconds", "0.2", "--compare", output, "--report", page)
    assert again.code == 0, again.err
    text = page.read_text()
    check_page(text, alone=True)
    assert all(f"{item['p50_ms']:.4g} ms" in text for item in [*again.json["measures"], *answer["measures"]])


def test_a_language_model_reads_and_decodes(python: Path, tmp_path: Path) -> None:
    words = ("bench", "--model", "mamba2-130m", "--depth", "1", "--prompt", "8", "--seconds", "0.1")
    answer = mambaport(tmp_path / "store", *words, "--threads", "1", "--python", python).good()
    assert [item["measure"] for item in answer["measures"]] == ["prefill", "decode"]
    assert all(item["unit"] == "tokens" for item in answer["measures"])


def test_weights_of_fewer_bits(python: Path, photos: Path, tmp_path: Path) -> None:
    words = ("bench", "--model", "mamba-130m", "--depth", "1", "--prompt", "8", "--seconds", "0.1")
    more = ("--weights", "int8", "--compare", "float32", "--threads", "1", "--python", python)
    answer = mambaport(tmp_path / "store", *words, *more).good()
    variants = [(item["measure"], item["variant"]) for item in answer["measures"]]
    assert variants == [(name, kind) for name in ("prefill", "decode") for kind in ("default", "float32")]
    assert answer["weights"] == "int8"
    assert 0 < answer["largest_change"] < 0.01
    image = next(path for path in photos.rglob("*") if path.is_file())
    found = {}
    for weights in ("float32", "int8", "int4"):
        words = ("infer", "--image", image, "--depth", "2", "--top", "1000", "--weights", weights)
        found[weights] = run(python, tmp_path, *words).good()["images"][0]["classes"]
    chances = {
        weights: {item["index"]: item["probability"] for item in classes}
        for weights, classes in found.items()
    }
    for weights, most in (("int8", 0.1), ("int4", 0.5)):
        changes = [abs(chance / chances["float32"][index] - 1) for index, chance in chances[weights].items()]
        assert 0 < max(changes) < most


@pytest.mark.parametrize(
    ("without", "what"), [("pil", "There is no Pillow"), ("einops", "There is no einops")]
)
def test_what_the_environment_lacks_is_named(
    cpu: Any, photos: Path, tmp_path: Path, without: str, what: str
) -> None:
    python = with_wheels(tmp_path / "less", cpu, (without,))
    ran = run(python, tmp_path, "infer", "--image", photos / "n01440764" / "photo.jpg")
    assert ran.code == 12
    assert what in ran.json["error"]["what"]
    assert "pip install" in ran.json["error"]["hint"]


def test_an_environment_without_the_wheels_is_told_how_to_get_them(tmp_path: Path, photos: Path) -> None:
    python = environment_with_torch(tmp_path)
    ran = run(python, tmp_path, "infer", "--image", photos / "n01440764" / "photo.jpg")
    assert ran.code == 12
    assert ran.json["error"]["what"] == "There is no causal_conv1d in this environment"
    assert "mambaport install" in ran.json["error"]["hint"]


@pytest.mark.parametrize("threads", ["0", "-1", "many", "1.5", "100000"])
def test_threads_that_are_none_are_refused(tmp_path: Path, threads: str) -> None:
    ran = mambaport(tmp_path / "store", "bench", "--threads", threads)
    assert ran.code == 2
    assert ran.json["error"]["kind"] == "usage"


# A configuration of transformers ------------------------------------------------------------------------

CONFIG = {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 99, "state_size": 8}
BENCH = ("--seconds", "0.1", "--prompt", "16", "--threads", "1")


def bench_of(folder: Path, python: Path, config: dict[str, Any], *words: str | Path) -> Ran:
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return mambaport(folder / "store", "bench", "--model", f"hf:{path}", *BENCH, *words, "--python", python)


def test_a_configuration_of_transformers_is_measured_with_the_packages_and_without(
    python: Path, tmp_path: Path
) -> None:
    output = tmp_path / "result.json"
    answer = bench_of(tmp_path, python, CONFIG, "--compare", "fallback", "-o", output).good()
    kinds = [(item["measure"], item["variant"]) for item in answer["measures"]]
    variants = ("default", "without", "fallback")
    assert kinds == [(measure, variant) for measure in ("prefill", "decode") for variant in variants]
    assert answer["model"] == "hf:mamba"
    assert answer["depth"] == 2
    assert answer["environment"]["transformers"].startswith("5.")
    again = bench_of(tmp_path, python, CONFIG, "--compare", output)
    assert again.code == 0, again.err
    other = bench_of(tmp_path, python, {**CONFIG, "hidden_size": 48}, "--compare", output)
    assert other.code == 2
    assert "another configuration" in other.json["error"]["what"]


@pytest.mark.parametrize(
    ("config", "code", "what"),
    [
        ({"model_type": "mamba9"}, 17, "no model of the type"),
        ({"model_type": "mamba", "hidden_size": "many"}, 17, "refuses the configuration"),
        ({"model_type": "mamba", "hidden_size": 300_000, "num_hidden_layers": 2}, 12, "not enough memory"),
    ],
)
def test_a_configuration_that_cannot_be_measured_is_refused(
    python: Path, tmp_path: Path, config: dict[str, Any], code: int, what: str
) -> None:
    ran = bench_of(tmp_path, python, config)
    assert ran.code == code, ran.err
    assert what in ran.json["error"]["what"]
    assert "Traceback" not in ran.err


def test_transformers_that_is_missing_or_too_old_is_named(cpu: Any, tmp_path: Path) -> None:
    python = with_wheels(tmp_path / "less", cpu, ("transformers",))
    ran = bench_of(tmp_path, python, CONFIG)
    assert ran.code == 12
    assert "There is no transformers" in ran.json["error"]["what"]
    assert "transformers>=" in ran.json["error"]["hint"]
    (site,) = (tmp_path / "less" / "venv" / "lib").glob("python3*/site-packages")
    old = site / "transformers"
    (old / "integrations").mkdir(parents=True)
    (old / "__init__.py").write_text('__version__ = "4.57.3"\n')
    (old / "integrations" / "hub_kernels.py").write_text("")
    ran = bench_of(tmp_path, python, CONFIG)
    assert ran.code == 12
    assert "does not call mamba_ssm and causal_conv1d on a CPU" in ran.json["error"]["what"]
    assert "4.57.3" in ran.json["error"]["found"]
