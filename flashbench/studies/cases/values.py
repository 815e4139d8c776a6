"""Cases of every value: scales, extreme logits, huge and tiny numbers, NaN and infinity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from flashbench.dtypes import DTYPES, Dtype, is_half
from flashbench.engines import Settings
from flashbench.problem import AttentionProblem, Inputs
from flashbench.studies.cases.case import Case, Change, each_masking
from flashbench.tolerances import Sizes

# A product of two inputs of this size stays finite, and huge times tiny stays exact.
_HUGE: dict[Dtype, float] = {"float16": 1e3, "bfloat16": 1e30, "float32": 1e30, "float64": 1e150}
# The product of two of these is a logit of 2^30, 2^100 or 2^900.
_HALF_A_HUGE_LOGIT: dict[Dtype, float] = {
    "float16": 2.0**15,
    "bfloat16": 2.0**50,
    "float32": 2.0**50,
    "float64": 2.0**450,
}
CONTAINMENT = "NaN and infinity"
BEYOND = "beyond 16 bits"


def scales(dtype: Dtype) -> Iterator[Case]:
    """Any softmax_scale, zero and below included."""
    for word, scale in (("zero", 0.0), ("negative", -0.3), ("small", 1e-4), ("one", 1.0)):
        problem = AttentionProblem.of(113, dtype=dtype, softmax_scale=scale)
        for name, masked in each_masking(f"scale-{word}", problem):
            yield Case(name, "scales", masked, sizes=Sizes(scale=scale * 8))  # 8 = sqrt(head_dim)


def magnitudes(dtype: Dtype) -> Iterator[Case]:
    """Inputs far from standard normal, one at a time and together."""
    huge = _HUGE[dtype]
    tiny = 1 / huge
    sizes = {
        "logits-x30": Sizes(q=30.0),
        "inputs-x100": Sizes(100.0, 100.0, 100.0, 100.0),
        "inputs-x0.01": Sizes(0.01, 0.01, 0.01, 0.01),
        "huge-q-tiny-k": Sizes(q=huge, k=tiny),
        "tiny-q-huge-k": Sizes(q=tiny, k=huge),
        "huge-v": Sizes(v=huge),
        "tiny-v": Sizes(v=tiny),
        "huge-do": Sizes(do=huge),
        "tiny-do": Sizes(do=tiny),
        "tiny-inputs": Sizes(tiny, tiny, tiny, tiny),
    }
    for word, size in sizes.items():
        problem = AttentionProblem.of(113, num_heads=2, dtype=dtype)
        for name, masked in each_masking(word, problem):
            yield Case(name, "extremes", masked, sizes=size)


def steep_logits(dtype: Dtype) -> Iterator[Case]:
    """Logits in a special order: one key far above all, each key above or below the one before, all equal."""
    half = _HALF_A_HUGE_LOGIT[dtype]
    problem = AttentionProblem.of(60, dtype=dtype, softmax_scale=1.0)
    exact = Sizes(q=half, k=half, scale=8.0, exact_logits=True)
    yield Case("one-hot", "steep logits", problem, sizes=exact, change=lambda x: _one_hot(x, half))
    for word, change in (("rising", _rising), ("falling", _falling), ("equal", _equal)):
        problem = AttentionProblem.of(203, dtype=dtype)
        for name, masked in each_masking(f"logits-{word}", problem):
            # All queries are equal, and put most of their weight on the same one or two keys.
            yield Case(name, "steep logits", masked, sizes=Sizes(k=30.0, keys=2), change=change)


def beyond_the_range(dtype: Dtype) -> Iterator[Case]:
    """In 16-bit dtypes: scores beyond the largest number, sums of many small weights, denormal inputs."""
    if not is_half(dtype):
        return
    entry = DTYPES[dtype]
    for factor in (5.0, 200.0):  # float16: logits of 200^2 sqrt(256) are ten times its largest number
        problem = AttentionProblem.of(203, head_dim=256, dtype=dtype, softmax_scale=1.0)
        sizes = Sizes(q=factor, k=factor, scale=16.0)
        for name, masked in each_masking(f"unscaled-logits-x{factor:g}", problem):
            yield Case(name, BEYOND, masked, sizes=sizes)
    for head_dim in (16, 128):
        problem = AttentionProblem.of(130, seqlen_k=4096, head_dim=head_dim, dtype=dtype)
        yield Case(f"4096-equal-weights-d{head_dim}", BEYOND, problem, change=_mean_of_ones)
    small = entry.smallest_normal / 4
    for word, sizes in (
        ("v", Sizes(v=small)),
        ("do", Sizes(do=small)),
        ("inputs", Sizes(small, small, small, small)),
    ):
        problem = AttentionProblem.of(113, num_heads=2, dtype=dtype)
        yield Case(f"denormal-{word}", BEYOND, problem, sizes=sizes)


def _mean_of_ones(inputs: Inputs) -> Inputs:
    """All keys are equal, and every o is the sum of 4096 weights of 1/4096."""
    inputs.v[...] = 1.0
    return _equal(inputs)


def not_finite(dtype: Dtype) -> Iterator[Case]:
    """NaN or infinity reaches only rows that see it: no other head or sequence, no row it is hidden from."""
    heads = AttentionProblem.of(70, batch=2, num_heads=4, num_kv_heads=2, head_dim=20, dtype=dtype)
    for word, value in (("nan", np.nan), ("inf", np.inf), ("minus-inf", -np.inf)):
        for name in Inputs._fields:
            change = put(value, (0, 1, 30, 7), name)
            for slug, problem in each_masking(f"{word}-in-{name}", heads):
                for size in (None, 16):
                    yield Case(
                        f"{slug}-blocks-16x16" if size else slug,
                        CONTAINMENT,
                        problem,
                        Settings(size, size),
                        change=change,
                        infinite=word != "nan",
                    )
    for name in Inputs._fields:
        for row, word in ((0, "first"), (69, "last")):
            for slug, problem in each_masking(f"nan-in-{word}-{name}", heads):
                yield Case(slug, CONTAINMENT, problem, change=put(np.nan, (0, 1, row, 7), name))
    # Logits of about 1000 give one key all the weight, but a query still sees the other keys.
    yield Case(
        "nan-of-no-weight",
        CONTAINMENT,
        heads,
        sizes=Sizes(q=30.0, k=30.0),
        change=put(np.nan, (0, 1, 30, 7), "v"),
    )
    yield from _out_of_sight(dtype)


def _out_of_sight(dtype: Dtype) -> Iterator[Case]:
    for word, value in (("nan", np.nan), ("inf", np.inf)):
        problem = AttentionProblem.of(
            40, seqlen_k=70, num_heads=2, dtype=dtype, causal=True, causal_alignment="top-left"
        )
        hidden = (..., slice(40, None), slice(None))
        yield Case(
            f"{word}-in-keys-that-none-sees", CONTAINMENT, problem, change=put(value, hidden, "k", "v")
        )
        problem = AttentionProblem.of(70, seqlen_k=40, num_heads=2, dtype=dtype, causal=True)
        unseeing = (..., slice(30), slice(None))
        yield Case(
            f"{word}-in-queries-that-see-none", CONTAINMENT, problem, change=put(value, unseeing, "q", "do")
        )


def put(value: float, index: Any, *names: str) -> Change:
    """Put `value` at `index` in the inputs with these names."""

    def change(inputs: Inputs) -> Inputs:
        for name in names:
            getattr(inputs, name)[index] = value
        return inputs

    return change


def _one_hot(inputs: Inputs, size: float) -> Inputs:
    """Query i and key i are `size` along axis i, and 0 elsewhere."""
    for x in (inputs.q, inputs.k):
        x[...] = 0.0
        rows = np.arange(x.shape[2])
        x[:, :, rows, rows] = size
    return inputs


def _rising(inputs: Inputs) -> Inputs:
    """Logits from 0 to 240 in equal steps: row_max grows with each key."""
    inputs.q[...] = 1.0
    inputs.k[...] = np.linspace(0.0, 30.0, inputs.k.shape[2])[:, np.newaxis]
    return inputs


def _falling(inputs: Inputs) -> Inputs:
    inputs = _rising(inputs)
    return inputs._replace(k=np.ascontiguousarray(inputs.k[:, :, ::-1]))


def _equal(inputs: Inputs) -> Inputs:
    inputs.k[...] = inputs.k[:, :, :1]
    return inputs
