"""Forms of the selective scan in ONNX's own operators: CPU times in ONNX Runtime, errors against float64.

Needs numpy, onnx and onnxruntime: ``python benchmarks/onnx_forms.py``. docs/how-to/onnx.md has the table.
"""

import statistics
import time

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

STATES = 16
SHAPES = ((384, 197), (1536, 2048))
CHUNK = 16
RUNS = {384: 9, 1536: 3}


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def value(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def whole(nodes, dim, integers):
    """A model of delta, u (seqlen, 1, dim), A (STATES, dim), B (seqlen, STATES, 1), C (seqlen, 1, STATES)."""
    inputs = [value(name, ["seqlen", 1, dim]) for name in ("delta", "u")]
    inputs += [
        value("A", [STATES, dim]),
        value("B", ["seqlen", STATES, 1]),
        value("C", ["seqlen", 1, STATES]),
    ]
    constants = [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in integers.items()]
    constants.append(numpy_helper.from_array(np.zeros((STATES, dim), np.float32), "first"))
    constants.append(numpy_helper.from_array(np.array(1, np.float32), "whole"))
    graph = helper.make_graph(nodes, "scan", inputs, [value("y", ["seqlen", 1, dim])], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model


STEP = [
    node("Mul", "dt A", "rate"),
    node("Exp", "rate", "decay"),
    node("Mul", "decay state", "kept"),
    node("Mul", "inflow b", "new"),
    node("Add", "kept new", "next"),
    node("MatMul", "c next", "out"),
]


def scan(dim):
    """ONNX's Scan over the steps."""
    inputs = [value("state", [STATES, dim]), value("dt", [1, dim]), value("inflow", [1, dim])]
    inputs += [value("b", [STATES, 1]), value("c", [1, STATES])]
    body = helper.make_graph(STEP, "step", inputs, [value("next", [STATES, dim]), value("out", [1, dim])])
    nodes = [
        node("Mul", "delta u", "du"),
        node("Scan", "first delta du B C", "last y", body=body, num_scan_inputs=4),
    ]
    return whole(nodes, dim, {})


def loop(dim):
    """ONNX's Loop over the steps, which gathers each step's inputs."""
    gathers = [
        node("Gather", f"{whole_name} i", f"{name}", axis=0)
        for whole_name, name in (("delta", "dt"), ("du", "inflow"), ("B", "b"), ("C", "c"))
    ]
    scalar = helper.make_tensor_value_info
    inputs = [
        scalar("i", TensorProto.INT64, []),
        scalar("go", TensorProto.BOOL, []),
        value("state", [STATES, dim]),
    ]
    outputs = [scalar("on", TensorProto.BOOL, []), value("next", [STATES, dim]), value("out", [1, dim])]
    body = helper.make_graph([*gathers, *STEP, node("Identity", "go", "on")], "step", inputs, outputs)
    nodes = [
        node("Mul", "delta u", "du"),
        node("Shape", "u", "steps", start=0, end=1),
        node("Squeeze", "steps", "count"),
        node("Loop", "count  first", "last y", body=body),
    ]
    nodes[-1].input[:] = ["count", "", "first"]
    return whole(nodes, dim, {})


def exponentials_first(dim):
    """The decays of all steps at once; then a Scan over the steps."""
    inputs = [value("state", [STATES, dim]), value("decay", [STATES, dim]), value("inflow", [1, dim])]
    inputs += [value("b", [STATES, 1]), value("c", [1, STATES])]
    body = helper.make_graph(STEP[2:], "step", inputs, [value("next", [STATES, dim]), value("out", [1, dim])])
    nodes = [
        node("Mul", "delta u", "du"),
        node("Mul", "delta A", "rates"),
        node("Exp", "rates", "decays"),
        node("Scan", "first decays du B C", "last y", body=body, num_scan_inputs=4),
    ]
    return whole(nodes, dim, {})


def in_chunks(dim, size):
    """Nodes and constants that cut the inputs into chunks of ``size`` steps, with zeros at the end."""
    nodes = [node("Mul", "delta u", "du"), node("Shape", "u", "length", start=0, end=1)]
    nodes += [node("Neg", "length", "negative"), node("Mod", "negative size", "missing")]
    nodes += [node("Concat", "zero zero zero missing zero zero", "pads", axis=0)]
    integers = {"size": [size], "zero": [0], "one": [1], "flat": [-1, 1, dim]}
    for name, shape in (("delta", [1, dim]), ("du", [1, dim]), ("B", [STATES, 1]), ("C", [1, STATES])):
        integers[f"{name}shape"] = [-1, size, *shape]
        nodes += [
            node("Pad", f"{name} pads", f"{name}padded"),
            node("Reshape", f"{name}padded {name}shape", f"{name}chunks"),
        ]
    return nodes, integers


def unrolled(dim, size=4):
    """A Scan over groups of steps, whose decays are one Exp; the steps of a group are nodes side by side."""
    nodes, integers = in_chunks(dim, size)
    parts = {name: [f"{name}{step}" for step in range(size)] for name in ("decay", "new", "next")}
    body = [*STEP[:2], STEP[3]]
    body += [
        node("Split", name, " ".join(parts[name]), axis=0, num_outputs=size) for name in ("decay", "new")
    ]
    for step, after in enumerate(parts["next"]):
        before = parts["next"][step - 1] if step else "state"
        body += [
            node("Mul", f"decay{step} {before}", f"kept{step}"),
            node("Add", f"kept{step} new{step}", after),
        ]
    body += [
        node("Concat", " ".join(parts["next"]), "states", axis=0),
        node("MatMul", "c states", "out"),
        node("Identity", parts["next"][-1], "last_state"),
    ]
    state = [1, STATES, dim]
    inputs = [value("state", state), value("dt", [size, 1, dim]), value("inflow", [size, 1, dim])]
    inputs += [value("b", [size, STATES, 1]), value("c", [size, 1, STATES])]
    outputs = [value("last_state", state), value("out", [size, 1, dim])]
    nodes += [
        node("Unsqueeze", "first zero", "start"),
        node(
            "Scan", "start deltachunks duchunks Bchunks Cchunks", "last out", num_scan_inputs=4,
            body=helper.make_graph(body, "group", inputs, outputs),
        ),
        node("Reshape", "out flat", "all"),
        node("Slice", "all zero length zero", "y"),
    ]  # fmt: skip
    return whole(nodes, dim, integers)


def nested(dim, size=8):
    """A Scan over chunks, whose decays are one Exp; in it, a Scan over the steps of a chunk."""
    nodes, integers = in_chunks(dim, size)
    state, row = [STATES, dim], [1, dim]
    inner = helper.make_graph(
        [
            node("Mul", "decay1 state1", "kept1"),
            node("Add", "kept1 new1", "next1"),
            node("MatMul", "c1 next1", "out1"),
        ],
        "step",
        [value("state1", state), value("decay1", state), value("new1", state), value("c1", [1, STATES])],
        [value("next1", state), value("out1", row)],
    )
    body = [*STEP[:2], STEP[3], node("Scan", "state decay new c", "next out", body=inner, num_scan_inputs=3)]
    inputs = [value("state", state), value("dt", [size, *row]), value("inflow", [size, *row])]
    inputs += [value("b", [size, STATES, 1]), value("c", [size, 1, STATES])]
    outputs = [value("next", state), value("out", [size, *row])]
    nodes += [
        node(
            "Scan", "first deltachunks duchunks Bchunks Cchunks", "last out", num_scan_inputs=4,
            body=helper.make_graph(body, "chunk", inputs, outputs),
        ),
        node("Reshape", "out flat", "all"),
        node("Slice", "all zero length zero", "y"),
    ]  # fmt: skip
    return whole(nodes, dim, integers)


def pair(dim):
    """Two scans in one Scan, as the directions of Vision Mamba: here both compute the same."""
    state = [2, STATES, dim]
    inputs = [value("state", state), value("dt", [2, 1, dim]), value("inflow", [2, 1, dim])]
    inputs += [value("b", [2, STATES, 1]), value("c", [2, 1, STATES])]
    body = helper.make_graph(STEP, "step", inputs, [value("next", state), value("out", [2, 1, dim])])
    nodes = [node("Mul", "delta u", "du"), node("Unsqueeze", "first zero", "one")]
    nodes += [node("Concat", "one one", "start", axis=0)]
    for name in ("delta", "du", "B", "C"):
        nodes += [
            node("Unsqueeze", f"{name} single", f"{name}once"),
            node("Concat", f"{name}once {name}once", f"{name}twice", axis=1),
        ]
    nodes += [
        node("Scan", "start deltatwice dutwice Btwice Ctwice", "last ys", body=body, num_scan_inputs=4),
        node("Slice", "ys single two single", "last_of_both"),
        node("Squeeze", "last_of_both single", "y"),
    ]
    return whole(nodes, dim, {"zero": [0], "single": [1], "two": [2]})


def doubling(dim, seqlen):
    """Hillis and Steele's scan: log2(seqlen) passes over all states, so the length is fixed."""
    nodes = [
        node("Mul", "delta u", "du"),
        node("Mul", "delta A", "rate"),
        node("Exp", "rate", "decay0"),
        node("Mul", "du B", "state0"),
    ]
    integers = {"zero": [0], "minus": [-(2**60)], "end": [2**60]}
    distance, level = 1, 0
    while distance < seqlen:
        integers |= {f"pad{level}": [distance, 0, 0, 0, 0, 0], f"stop{level}": [-distance]}
        for name in ("decay", "state"):
            nodes.append(node("Slice", f"{name}{level} zero stop{level} zero", f"{name}short{level}"))
            pad = node("Pad", f"{name}short{level} pad{level}", f"{name}before{level}")
            if name == "decay":
                pad.input.append("whole")
            nodes.append(pad)
        nodes += [
            node("Mul", f"decay{level} statebefore{level}", f"carried{level}"),
            node("Add", f"carried{level} state{level}", f"state{level + 1}"),
            node("Mul", f"decay{level} decaybefore{level}", f"decay{level + 1}"),
        ]
        distance, level = distance * 2, level + 1
    nodes.append(node("MatMul", f"C state{level}", "y"))
    return whole(nodes, dim, integers)


def chunks(dim):
    """CHUNK steps in turn, for all chunks at once; then a Scan carries the states from chunk to chunk."""
    nodes, integers = in_chunks(dim, CHUNK)
    nodes += [
        node("Mul", "deltachunks A", "rate"),
        node("Exp", "rate", "decay"),
        node("Mul", "duchunks Bchunks", "inflow"),
    ]
    for name in ("decay", "inflow"):
        parts = " ".join(f"{name}{step}" for step in range(CHUNK))
        nodes.append(node("Split", name, parts, axis=1, num_outputs=CHUNK))
    nodes += [node("Identity", "inflow0", "local0"), node("Identity", "decay0", "total0")]
    for step in range(1, CHUNK):
        nodes += [
            node("Mul", f"decay{step} local{step - 1}", f"kept{step}"),
            node("Add", f"kept{step} inflow{step}", f"local{step}"),
            node("Mul", f"decay{step} total{step - 1}", f"total{step}"),
        ]
    last = CHUNK - 1
    states = [value(name, [1, STATES, dim]) for name in ("state", "decay_of", "local_of")]
    body = helper.make_graph(
        [
            node("Mul", "decay_of state", "kept"),
            node("Add", "kept local_of", "next"),
            node("Identity", "state", "before"),
        ],
        "carry",
        states,
        [value("next", [1, STATES, dim]), value("before", [1, STATES, dim])],
    )
    nodes += [
        node("Unsqueeze", "first zero", "start"),
        node("Scan", f"start total{last} local{last}", "end carried", body=body, num_scan_inputs=2),
        node("Concat", " ".join(f"local{step}" for step in range(CHUNK)), "locals", axis=1),
        node("Concat", " ".join(f"total{step}" for step in range(CHUNK)), "totals", axis=1),
        node("Mul", "totals carried", "moved"),
        node("Add", "locals moved", "h"),
        node("MatMul", "Cchunks h", "out"),
        node("Reshape", "out flat", "all"),
        node("Slice", "all zero length zero", "y"),
    ]
    return whole(nodes, dim, integers)


def reference(feeds):
    """The outputs in float64."""
    delta, u, A, B, C = (feeds[name].astype(np.float64) for name in ("delta", "u", "A", "B", "C"))
    state, out = np.zeros_like(A), np.empty_like(u)
    for t in range(len(u)):
        state = np.exp(delta[t] * A) * state + delta[t] * u[t] * B[t]
        out[t] = C[t] @ state
    return out


def main():
    random = np.random.default_rng(0)
    for dim, seqlen in SHAPES:
        feeds = {
            "delta": np.log1p(np.exp(random.normal(-3, 1.5, (seqlen, 1, dim)))),
            "u": random.normal(size=(seqlen, 1, dim)),
            "A": -np.tile(np.arange(1.0, STATES + 1)[:, None], (1, dim)),
            "B": random.normal(size=(seqlen, STATES, 1)),
            "C": random.normal(size=(seqlen, 1, STATES)),
        }
        feeds = {name: array.astype(np.float32) for name, array in feeds.items()}
        wanted = reference(feeds)
        forms = {
            "Scan": scan(dim),
            "pair": pair(dim),
            "Loop": loop(dim),
            "Exp first": exponentials_first(dim),
            "groups": unrolled(dim),
            "nested": nested(dim),
            "chunks": chunks(dim),
            "doubling": doubling(dim, seqlen),
        }
        for name, model in forms.items():
            options = ort.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = 1, 3
            session = ort.InferenceSession(model.SerializeToString(), options)
            error = np.abs(session.run(None, feeds)[0] - wanted).max() / np.abs(wanted).max()
            times = []
            for _ in range(RUNS[dim]):
                started = time.process_time()
                session.run(None, feeds)
                times.append(time.process_time() - started)
            print(
                f"{dim:5} {seqlen:5} {name:9} {statistics.median(times) * 1e3:8.1f} ms  {error:.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
