"""What the cases of a model must give: the kernels that run, and differences by design.

The tests assert these statements, and docs/how-to/transformers.md shows them. Needs no torch.
"""

from __future__ import annotations

import textwrap
from collections import Counter

from models import MODELS, Model

# Case -> how often the model runs: over prompts, over one token, in training; and gradients. Runs over a
# prompt include those with which the case is compared.
RUNS = {
    "forward": (1, 0, 0, 0),
    "padding": (2, 0, 0, 0),
    "chunks": (3, 3, 0, 0),
    "packed": (1, 0, 0, 0),
    "apart": (3, 0, 0, 0),
    "greedy 1": (1, 7, 0, 0),
    "greedy 2": (1, 7, 0, 0),
    "beams 1": (1, 7, 0, 0),
    "beams 2": (1, 7, 0, 0),
    "bfloat16": (2, 6, 0, 0),
    "autocast": (0, 0, 2, 2),
    "backward": (0, 0, 1, 1),
    "backward padded": (0, 0, 1, 1),
    "checkpointing": (0, 0, 3, 2),
}
NAMES = {
    "causal_conv1d_forward": "convolution",
    "selective_scan_forward": "scan",
    "causal_conv1d_update": "convolution's step",
    "selective_state_update": "scan's step",
    "causal_conv1d_backward": "convolution's gradient",
    "selective_scan_backward": "scan's gradient",
}


def calls(model: Model, case: str) -> dict[str, int]:
    """Name of a kernel -> the number of its calls in a case."""
    if not model.kernels:
        return {}
    if case == "packed" and model.packing == "refused":
        return {"causal_conv1d_forward": 1}  # and then the linear attention raises the error
    prompts, steps, trainings, gradients = RUNS[case]
    scans = {"mamba": model.heads, "mamba2": 1, "conv": 0}[model.family] * model.mixers
    trained = (
        scans if model.family == "mamba" else 0
    )  # PyTorch computes Mamba-2's scan where a gradient is wanted
    counts = Counter(
        causal_conv1d_forward=model.mixers * (prompts + trainings),
        selective_scan_forward=scans * prompts + trained * trainings,
        causal_conv1d_update=model.mixers * steps,
        selective_state_update=scans * steps,
        causal_conv1d_backward=model.mixers * gradients,
        selective_scan_backward=trained * gradients,
    )
    return {name: count for name, count in counts.items() if count}


EQUAL = "equal"


def notes(name: str) -> dict[str, str]:
    """Case -> EQUAL, or the letter of the difference by design in DIFFERENCES."""
    model = MODELS[name]
    found = dict.fromkeys(RUNS, EQUAL)
    found["packed"] = {"apart": EQUAL, "mask": "a", "conv": "b", "ignored": "c", "refused": "d"}[
        model.packing
    ]
    if model.drops_state:
        found["chunks"] = "e"
    if model.clamps_dt:
        found["chunks"] = "f"
    if model.fused:
        found["backward padded"] = "g"
    if name == "falcon_mamba":
        found |= dict.fromkeys(("autocast", "backward", "backward padded", "checkpointing"), "h")
    return found


DIFFERENCES = {
    "a": "Equal, if `attention_mask` is a dictionary whose `full_attention` keeps the sequences apart: "
    "transformers' Granite derives no such mask from `position_ids`.",
    "b": "transformers passes `seq_idx` to the convolution alone: Mamba-1's scan has no such argument. The "
    "state flows from one sequence into the next.",
    "c": "transformers passes `seq_idx` to no mixer, and raises no error. The result is that of one long "
    "sequence, with our packages and without.",
    "d": "ValueError: the linear attention (gated delta rule) is in neither package; transformers wants "
    "flash-linear-attention for `seq_idx`. The convolution ran before the error.",
    "e": "Equal to transformers without our packages, but not to the whole prompt at once: transformers "
    "begins each piece of more than one token with an empty state, because Mamba-1's scan takes no "
    "initial state. Read the prompt in one piece.",
    "f": "Equal to transformers without our packages, but not exactly to the whole prompt at once: "
    "transformers clamps dt to at least `time_step_min` in a prompt, and not in a step of decoding.",
    "g": "In `model.train()`, transformers calls one fused function for a mixer (`mamba_inner_fn`, "
    "`mamba_split_conv1d_scan_combined`), which takes no mask. Padding is zero before the mixer; after "
    "the convolution its bias remains in padded places, and enters the state. Pad at the right, or call "
    "`model.eval()`.",
    "h": "In `model.train()`, dt is normalized after its projection, as upstream's `mamba_inner_fn` does; "
    "[FalconMamba computes two formulas](run-a-model.md#in-transformers). With padding, g applies too.",
}
COLUMNS = {
    "prompt": ("forward",),
    "left padding": ("padding",),
    "two pieces and steps": ("chunks",),
    "packed": ("packed",),
    "greedy, beams; batch 1, 2": ("greedy 1", "greedy 2", "beams 1", "beams 2"),
    "bfloat16": ("bfloat16",),
    "autocast": ("autocast",),
    "gradients": ("backward",),
    "gradients, left padding": ("backward padded",),
    "checkpointing": ("checkpointing",),
}


def page_tables() -> str:
    """The tables of docs/how-to/transformers.md."""
    head = ["model", *COLUMNS]
    lines = [_row(head), _row(["---"] * len(head))]
    for name, model in MODELS.items():
        found = notes(name)
        lines.append(_row([model.title, *(_mark(found[cases[0]]) for cases in COLUMNS.values())]))
    lines += ["", *(_wrapped(f"- **{letter}**: {text}") for letter, text in DIFFERENCES.items())]
    kinds = {"prompt": "forward", "token": "greedy 1", "training": "backward"}
    lines += ["", "Kernels that run:", "", _row(["models", *kinds]), _row(["---"] * (1 + len(kinds)))]
    for family in ("mamba", "mamba2", "conv"):
        models = [model for model in MODELS.values() if model.family == family and model.kernels]
        cells = []
        for case in kinds.values():
            run = calls(models[0], case)
            if case == "greedy 1":
                run = {
                    kernel: count
                    for kernel, count in run.items()
                    if kernel not in calls(models[0], "forward")
                }
            cells.append(", ".join(NAMES[kernel] for kernel in run))
        lines.append(_row([", ".join(model.title for model in models), *cells]))
    for model in MODELS.values():
        if not model.kernels:
            lines.append(_row([model.title, *["PyTorch: more taps than 4"] * len(kinds)]))
    return "\n".join(lines)


def _wrapped(text: str) -> str:
    return "\n".join(
        textwrap.wrap(text, 118, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    )


def _mark(note: str) -> str:
    return "=" if note == EQUAL else note


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
