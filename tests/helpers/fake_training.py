"""Training steps from a formula, for tests of figures and tables."""

from __future__ import annotations

from itertools import product
from typing import Any

import msgspec

from flashbench.results.record import Results, TrainingStep
from helpers.fake_results import make_results, make_time

ARMS = ("standard", "flash", "torch-flash", "torch-math")
# Milliseconds of attention in a step of 1024 values, and bytes of peak per pair and per value.
_ATTENTION_MS = {"standard": 80.0, "flash": 20.0, "torch-flash": 30.0, "torch-math": 90.0}
_PEAK = {"standard": (8, 1000), "flash": (0, 1500), "torch-flash": (0, 2000), "torch-math": (16, 1000)}
_OTHER_MS = 20.0  # everything but attention


def make_step(attention: str, context: int, *, model: str = "PatchTST", **changed: Any) -> TrainingStep:
    """Attention grows with the square of the context, everything else with the context."""
    share = context / 1024
    attending, other = _ATTENTION_MS[attention] * share**2, _OTHER_MS * share
    pairs, values = _PEAK[attention]
    total = (attending + other) * 1e6
    step = TrainingStep(
        model=model,
        attention=attention,
        context_length=context,
        windows=4,
        status="ok",
        data="sf-temps",
        series=1,
        parameters=123_456,
        threads=2,
        time=make_time(total, processes=2, calls=3, spread=0.0),
        forward_ns=0.4 * total,
        backward_ns=0.5 * total,
        optimizer_ns=0.1 * total,
        attention_forward_ns=0.4e6 * attending,
        attention_backward_ns=0.6e6 * attending,
        attention_share=attending / (attending + other),
        attention_calls=3,
        attention_shape=[4, 16, context, context, 8, 8],
        peak_bytes=pairs * context**2 + values * context + 4096,
        losses=[1.5, 1.25, 1.125],
    )
    return msgspec.structs.replace(step, **changed)


def failed_step(attention: str, context: int, status: str, reason: str, **changed: Any) -> TrainingStep:
    """A step without any measurement."""
    nothing = dict.fromkeys(
        (
            "time",
            "forward_ns",
            "backward_ns",
            "optimizer_ns",
            "attention_forward_ns",
            "attention_backward_ns",
            "attention_share",
            "attention_calls",
            "attention_shape",
            "peak_bytes",
            "parameters",
        )
    )
    words = {"status": status, "reason": reason, "losses": []}
    return make_step(attention, context, **(nothing | words | changed))


def make_training(steps: list[TrainingStep], **config: Any) -> Results:
    """A file of these steps."""
    return msgspec.structs.replace(
        make_results([], kind="train"), training=steps, config={"kind": "train", **config}
    )


def every_kind() -> Results:
    """Three lengths of four arms, with failures among them, and a model without softmax attention."""
    steps = [make_step(arm, context) for context, arm in product((512, 1024, 2048, 4096), ARMS)]
    steps[-4] = failed_step("standard", 4096, "too_large", "needs some 9.9 GiB, 1.0 GiB are there")
    steps[-3] = failed_step("flash", 4096, "crashed", "ended by signal 9 (SIGKILL)")
    steps[-1] = msgspec.structs.replace(steps[-1], status="wrong", reason="loss 2 before any step")
    steps += [
        failed_step(arm, context, "unsupported", "ProbSparse instead of it: another model", model="Informer")
        for context, arm in product((512, 1024), ARMS)
    ]
    return make_training(steps, memory_budget_bytes=16 * 1024**3)
