"""A language model in a file of `mambaport export`: tokens and states in, logits and states out. No torch."""

import numpy as np
from onnx_session import properties


def zeros(session, batch):
    """The states before the first token, by name of the input."""
    states = session.get_inputs()[1:]  # tokens are the first input
    return {item.name: np.zeros((batch, *item.shape[1:]), np.float32) for item in states}


class Decoder:
    """One token after another, without a copy of a state.

    In the fused form each state has one buffer, which is the input and the output of a step. In the standard
    form each state has two, which take turns.

    Args:
        tokens: (batch, 1), int64
        states: the states before the first step, by name of the input
    """

    def __init__(self, session, tokens, states):
        import onnxruntime as ort

        self.session = session
        self.token = ort.OrtValue.ortvalue_from_numpy(tokens)
        now = {name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in states.items()}
        if properties(session).get("form") == "fused":
            self.bindings = [self._binding(now, now)] * 2
            return
        later = {
            name: ort.OrtValue.ortvalue_from_numpy(np.empty_like(value)) for name, value in states.items()
        }
        self.bindings = [self._binding(now, later), self._binding(later, now)]

    def _binding(self, before, after):
        binding = self.session.io_binding()
        binding.bind_ortvalue_input("tokens", self.token)
        binding.bind_output("logits")
        for name, value in before.items():
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(f"next_{name}", after[name])
        return binding

    def step(self, token=None):
        """The logits, (batch, vocabulary), after another token, (batch,); by default after the same token."""
        if token is not None:
            self.token.update_inplace(np.ascontiguousarray(token[:, None]))
        now, later = self.bindings
        self.session.run_with_iobinding(now)
        self.bindings = [later, now]
        return now.get_outputs()[0].numpy()
