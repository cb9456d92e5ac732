"""Real checkouts of repositories that use Mamba: adopted, run on this machine's CPU, and put back.

MAMBAPORT_TEST_VIM, _MAMBA_YOLO, _VMAMBA, _CADUCEUS, _MAMBAVISION and _VIDEOMAMBA name them; they are
copied, and stay as they are. They are run by MAMBAPORT_TEST_TORCH, which needs the wheels of profile cpu and
what the repositories require.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from real import mambaport

VARIABLES = {
    "vim": "MAMBAPORT_TEST_VIM",
    "mamba-yolo": "MAMBAPORT_TEST_MAMBA_YOLO",
    "vmamba": "MAMBAPORT_TEST_VMAMBA",
    "caduceus": "MAMBAPORT_TEST_CADUCEUS",
}
UNCHANGED = {"mambavision": "MAMBAPORT_TEST_MAMBAVISION", "videomamba": "MAMBAPORT_TEST_VIDEOMAMBA"}
MODEL = "vim_tiny_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2"
IMAGES = """
import sys, numpy, pathlib
from PIL import Image
for label in ("n00000000", "n00000001"):
    folder = pathlib.Path(sys.argv[1], "val", label)
    folder.mkdir(parents=True)
    noise = numpy.random.default_rng(0).integers(0, 255, (300, 400, 3), numpy.uint8)
    Image.fromarray(noise).save(folder / "0.jpg")
"""
BLOCKS = """
import sys, torch
if sys.argv[1] == "without":
    sys.modules["selective_scan_cuda_core"] = None
from ultralytics.nn.modules import portable
from ultralytics.nn.modules.mamba_yolo import SS2D, VSSBlock
assert (portable._module is None) == (sys.argv[1] == "without")
torch.manual_seed(0)
results = []
for block in (SS2D(64), VSSBlock(64, 64), SS2D(64, d_conv=4), VSSBlock(64, 64, ssm_conv=4)):
    x = torch.randn(2, 64, 32, 32, requires_grad=True)
    y = block(x)
    assert y.shape == (2, 64, 32, 32), y.shape
    (y * torch.randn_like(y)).sum().backward()
    results += [y.detach(), x.grad, *[p.grad for p in block.parameters()]]
assert all(r is not None and r.isfinite().all() for r in results)
block = VSSBlock(64, 64).eval()
with torch.no_grad():
    single, half = block(x), block.half()(x.half())
assert half.dtype == torch.float16
torch.testing.assert_close(half.float(), single, rtol=0, atol=0.02)
if sys.argv[1] == "with":
    torch.save(results, "results.pt")
else:
    for one, other in zip(torch.load("results.pt"), results):
        torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-4)
"""
DETECTOR = """
import torch
from ultralytics.nn.tasks import DetectionModel
net = DetectionModel("ultralytics/cfg/models/mamba-yolo/Mamba-YOLO-T.yaml", verbose=False)
assert next(net.parameters()).device.type == "cpu"
assert net.stride.tolist() == [8, 16, 32]
maps = net.train()(torch.randn(1, 3, 128, 128))
assert [tuple(each.shape) for each in maps] == [(1, 144, 16, 16), (1, 144, 8, 8), (1, 144, 4, 4)]
sum(each.square().mean() for each in maps).backward()
assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters() if p.requires_grad)
"""


def copy_of(name: str, tmp_path: Path) -> Path:
    named = os.environ.get(VARIABLES[name])
    if not named:
        pytest.skip(f"{VARIABLES[name]} names no checkout")
    root = shutil.copytree(named, tmp_path / name, symlinks=True)
    mambaport(tmp_path / "store", "adopt", root, "--undo").good()
    return root


def python(*modules: str) -> str:
    """The interpreter with the wheels."""
    path = os.environ.get("MAMBAPORT_TEST_TORCH", "")
    ran = subprocess.run(
        [path or "false", "-c", f"import {', '.join(('mamba_ssm', *modules))}"],
        check=False,
        capture_output=True,
        text=True,
    )
    if ran.returncode:
        reason = (ran.stderr.strip().splitlines() or ["names none"])[-1]
        pytest.skip(f"MAMBAPORT_TEST_TORCH: {reason}")
    return path


def run(cwd: Path, *argv: str | Path) -> str:
    ran = subprocess.run(argv, cwd=cwd, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    return ran.stdout


def git(root: Path) -> tuple[str, dict[str, bytes]]:
    """What git says of the checkout, and git's own records but for its cache of file times."""
    status = run(root, "git", "status", "--porcelain")
    records = {
        str(path): path.read_bytes()
        for path in (root / ".git").rglob("*")
        if path.is_file() and path.name != "index"
    }
    return status, records


@pytest.mark.parametrize("name", VARIABLES)
def test_a_real_checkout_is_adopted_and_put_back(name: str, tmp_path: Path) -> None:
    root = copy_of(name, tmp_path)
    before = git(root)
    answer = mambaport(tmp_path / "store", "adopt", root, "-p", "rpi").good()
    assert answer["checkout"] == name
    assert answer["state"] == "adopted"
    assert len(answer["written"]) == len(answer["files"])
    status, records = git(root)
    assert status != before[0]
    assert records == before[1]
    assert mambaport(tmp_path / "store", "adopt", root, "--undo").good()["state"] == "pristine"
    assert git(root) == before


def test_vims_evaluation_runs_a_batch_on_the_cpu(tmp_path: Path) -> None:
    root, interpreter = copy_of("vim", tmp_path), python("timm", "torchvision")
    mambaport(tmp_path / "store", "adopt", root).good()
    run(tmp_path, interpreter, "-c", IMAGES, tmp_path / "images")
    words = (
        "--eval",
        "--device",
        "cpu",
        "--model",
        MODEL,
        "--data-path",
        tmp_path / "images",
        "--no-model-ema",
    )
    output = run(root / "vim", interpreter, "main.py", *words)
    assert "device cpu" in output
    assert "Accuracy of the network on the 2 test images" in output


def test_mamba_yolos_blocks_keep_the_shape_with_and_without_the_wheels_module(tmp_path: Path) -> None:
    root, interpreter = copy_of("mamba-yolo", tmp_path), python("timm", "torchvision", "cv2", "pandas")
    mambaport(tmp_path / "store", "adopt", root).good()
    run(root, interpreter, "-W", "ignore", "-c", BLOCKS, "with")
    run(root, interpreter, "-W", "ignore", "-c", BLOCKS, "without")


def test_mamba_yolos_smallest_model_runs_forward_and_backward_on_the_cpu(tmp_path: Path) -> None:
    root, interpreter = copy_of("mamba-yolo", tmp_path), python("timm", "torchvision", "cv2", "pandas")
    mambaport(tmp_path / "store", "adopt", root).good()
    run(root, interpreter, "-c", DETECTOR)


VMAMBA = """
import sys, torch
sys.path.insert(0, "classification/models")
if sys.argv[1] == "without":
    sys.modules["triton"] = None
import csms6s, vmamba
assert csms6s.WITH_SELECTIVESCAN_OFLEX and csms6s.WITH_SELECTIVESCAN_MAMBA
torch.manual_seed(0)
net = vmamba.VSSM(depths=[1, 1, 1, 1], dims=32, ssm_d_state=1, ssm_dt_rank="auto", ssm_ratio=2.0, ssm_conv=3,
                  ssm_conv_bias=False, forward_type="v05_noz", mlp_ratio=4.0, downsample_version="v3",
                  patchembed_version="v2", norm_layer="ln2d", num_classes=10).eval()
x = torch.randn(2, 3, 64, 64)
results = []
for backend in ("oflex", "mamba", "torch"):
    for module in net.modules():
        if isinstance(module, vmamba.SS2D):
            module.forward_core.keywords["selective_scan_backend"] = backend
    results.append(net(x))
for other in results[1:]:
    torch.testing.assert_close(results[0], other, rtol=1e-4, atol=1e-4)
results[0].square().mean().backward()
assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
assert net.flops(shape=(3, 64, 64), verbose=False) > 0
"""
DIRECTIONS = """
import itertools, sys, torch
sys.path.insert(0, "classification/models")
from csm_triton import cross_scan_fn
torch.manual_seed(0)
image = torch.randn(2, 3, 4, 5)
rows, columns = image.flatten(2), image.transpose(2, 3).flatten(2)
wanted = torch.stack([rows, columns, rows.flip(2), columns.flip(2)], 1)
for channels_first, result_first in itertools.product((True, False), repeat=2):
    x = (image if channels_first else image.permute(0, 2, 3, 1)).clone().requires_grad_()
    found = cross_scan_fn(x, channels_first, result_first, force_torch=True)
    assert found.is_contiguous()
    assert torch.equal(found if result_first else found.permute(0, 2, 3, 1), wanted)
    found.sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 4.0))
"""
CADUCEUS = """
import torch
from caduceus.configuration_caduceus import CaduceusConfig
from caduceus.modeling_caduceus import CaduceusForMaskedLM
for rcps in (False, True):
    config = CaduceusConfig(d_model=32, n_layer=2, vocab_size=12, rcps=rcps, fused_add_norm=True,
                            rms_norm=True, complement_map={i: i for i in range(16)} if rcps else None)
    net = CaduceusForMaskedLM(config)
    net(torch.randint(0, 12, (1, 16))).logits.square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
"""
MAMBAVISION = """
import torch
from mambavision.models.mamba_vision import MambaVision
net = MambaVision(depths=[1, 1, 2, 1], num_heads=[2, 4, 8, 16], window_size=[8, 8, 14, 7], dim=32, in_dim=16,
                  mlp_ratio=4, drop_path_rate=0.0).eval()
net(torch.randn(1, 3, 224, 224)).square().mean().backward()
assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
"""
VIDEOMAMBA = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import videomamba
options = {"num_frames": 4} if "video_sm" in sys.argv[1] else {}
net = videomamba.VisionMamba(img_size=64, patch_size=16, embed_dim=64, depth=2, rms_norm=True,
                             residual_in_fp32=True, fused_add_norm=True, num_classes=10, **options).eval()
shape = (1, 3, 4, 64, 64) if options else (1, 3, 64, 64)
net(torch.randn(shape)).square().mean().backward()
assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
"""


@pytest.mark.parametrize("triton", ["with", "without"])
def test_vmambas_model_runs_on_the_cpu_and_its_backends_agree(tmp_path: Path, triton: str) -> None:
    root, interpreter = copy_of("vmamba", tmp_path), python("timm", "fvcore")
    mambaport(tmp_path / "store", "adopt", root).good()
    run(root, interpreter, "-W", "ignore", "-c", VMAMBA, triton)


def test_vmambas_four_directions_are_the_same_numbers(tmp_path: Path) -> None:
    root, interpreter = copy_of("vmamba", tmp_path), python()
    mambaport(tmp_path / "store", "adopt", root).good()
    run(root, interpreter, "-W", "ignore", "-c", DIRECTIONS)


def test_caduceus_runs_forward_and_backward(tmp_path: Path) -> None:
    root, interpreter = copy_of("caduceus", tmp_path), python("transformers")
    mambaport(tmp_path / "store", "adopt", root).good()
    run(root, interpreter, "-c", CADUCEUS)


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("mambavision", MAMBAVISION, []),
        ("videomamba", VIDEOMAMBA, ["videomamba/image_sm/models"]),
        ("videomamba", VIDEOMAMBA, ["videomamba/video_sm/models"]),
    ],
)
def test_what_is_called_unchanged_runs_as_it_is(
    tmp_path: Path, name: str, code: str, words: list[str]
) -> None:
    named = os.environ.get(UNCHANGED[name])
    if not named:
        pytest.skip(f"{UNCHANGED[name]} names no checkout")
    interpreter = python("timm")
    answer = mambaport(tmp_path / "store", "adopt", named).good()
    assert (answer["checkout"], answer["state"], answer["written"]) == (name, "unchanged", [])
    run(Path(named), interpreter, "-W", "ignore", "-c", code, *words)


EXPORT = """
import sys, numpy, onnx, onnxruntime, torch
sys.path.insert(0, sys.argv[1])
from tensorrt_operators import refused

class First(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net
    def forward(self, image):
        out = self.net(image)
        return out[0] if isinstance(out, tuple) else out

def compare(net, size, dynamic, sizes):
    form = sys.argv[2]
    model = First(net).eval()
    image = torch.rand(2, 3, size, size)
    program = torch.onnx.export(model, (image,), dynamo=True, verbose=False, opset_version=18,
                                dynamic_shapes=(dynamic,))
    program.save("exported.onnx")
    file = onnx.load("exported.onnx")
    assert form == "fused" or not refused(file), refused(file)
    names = [node.op_type for node in file.graph.node]
    assert form == "standard" or "SelectiveScan" in names or "ProjectedScan" in names
    options = onnxruntime.SessionOptions()
    if form == "fused":
        import mambaport_onnx
        mambaport_onnx.register(options)
    session = onnxruntime.InferenceSession("exported.onnx", options)
    for shape in sizes:
        image = torch.rand(shape)
        with torch.no_grad():
            wanted = model(image).numpy()
        found = session.run(None, {session.get_inputs()[0].name: image.numpy()})[0]
        worst = float(numpy.abs(found - wanted).max() / numpy.abs(wanted).max())
        print(shape, worst)
        assert worst < 1e-5, worst
    return names
"""
VIM_EXPORT = (
    EXPORT
    + """
sys.path.insert(0, "vim")
import models_mamba
torch.manual_seed(0)
net = models_mamba.VisionMamba(img_size=64, depth=2, embed_dim=96, num_classes=10, final_pool_type="mean",
                               bimamba_type="v2", if_cls_token=True, use_middle_cls_token=True)
names = compare(net, 64, {0: "batch"}, [(1, 3, 64, 64), (3, 3, 64, 64)])
# A block is one Scan for its two directions, or two nodes of mambaport's.
assert names.count("Scan") == (2 if sys.argv[2] == "standard" else 0), names
assert names.count("ProjectedScan") == (0 if sys.argv[2] == "standard" else 4), names
"""
)
VMAMBA_EXPORT = (
    EXPORT
    + """
sys.path.insert(0, "classification/models")
import vmamba
torch.manual_seed(0)
net = vmamba.VSSM(depths=[1, 1, 1, 1], dims=32, ssm_d_state=1, ssm_dt_rank="auto", ssm_ratio=2.0, ssm_conv=3,
                  ssm_conv_bias=False, forward_type="v05_noz", mlp_ratio=4.0, downsample_version="v3",
                  patchembed_version="v2", norm_layer="ln2d", num_classes=10)
size = torch.export.Dim.AUTO
names = compare(net, 64, {0: "batch", 2: size, 3: size}, [(1, 3, 64, 64), (3, 3, 96, 128)])
assert not [name for name in names if name.startswith("Scatter")]
"""
)
DETECTOR_EXPORT = (
    EXPORT
    + """
from ultralytics.nn.tasks import DetectionModel
torch.manual_seed(0)
net = DetectionModel("ultralytics/cfg/models/mamba-yolo/Mamba-YOLO-T.yaml", verbose=False)
net.model[-1].dynamic = True
compare(net, 128, {0: "batch"}, [(1, 3, 128, 128), (3, 3, 128, 128)])
"""
)


@pytest.mark.parametrize("form", ["standard", "fused"])
@pytest.mark.parametrize(
    ("name", "code"), [("vim", VIM_EXPORT), ("vmamba", VMAMBA_EXPORT), ("mamba-yolo", DETECTOR_EXPORT)]
)
def test_an_adopted_model_becomes_an_onnx_file(tmp_path: Path, name: str, code: str, form: str) -> None:
    needed = ("timm", "onnx", "onnxruntime", "onnxscript")
    root = copy_of(name, tmp_path)
    more = {"vim": ("torchvision",), "vmamba": ("fvcore",), "mamba-yolo": ("torchvision", "cv2", "pandas")}[
        name
    ]
    interpreter = python(*needed, *more)
    mambaport(tmp_path / "store", "adopt", root).good()
    facts = Path(__file__).parents[1] / "numeric"
    run(root, "env", f"MAMBAPORT_ONNX_FORM={form}", interpreter, "-W", "ignore", "-c", code, facts, form)
