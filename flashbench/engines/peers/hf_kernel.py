"""A kernel with flash-attention's Python interface, from the Hugging Face hub or a local folder."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import torch

from flashbench.engines.peers import HfKernelOutline
from flashbench.engines.peers.hf_source import FUNCTION, chosen_source, load, options_of
from flashbench.engines.peers.torch_tensors import Attend, backward_through, forward_with_graph, set_threads
from flashbench.engines.protocol import Array, AttentionGradients, Forward, Ran, Settings
from flashbench.extras import NO_EXTRAS, Extras, make_extras
from flashbench.problem import AttentionProblem, Direction

_TRIED = 16  # queries and keys of the problem that is tried


class HfKernelEngine(HfKernelOutline):
    """`flash_attn_func` of the kernel that FLASHBENCH_HF_KERNEL names, with the arguments that differ from
    their defaults. Gradients are autograd's.

    Kernels differ in dtypes, head sizes and passes. So each is tried on a small problem of the same options
    before it computes a first one: what it raises there is why it does not support the problem.
    """

    def __init__(self) -> None:
        self._source = chosen_source()
        self._function = load(self._source)
        self._refusals: dict[tuple[AttentionProblem, Direction], str | None] = {}
        self.summary = f"{FUNCTION} of {self._source.name}, by $FLASHBENCH_HF_KERNEL"
        if self._ignores_dropout():
            self.features |= {"dropout"}  # results without dropout can be compared, and are wrong

    def unsupported(self, problem: AttentionProblem, direction: Direction) -> str | None:
        """What the interface cannot express, and what the kernel itself refuses."""
        if reason := super().unsupported(problem, direction):
            return reason
        group = problem.num_heads // problem.num_kv_heads
        changes = {"batch": 1, "num_heads": group, "num_kv_heads": 1, "seqlen_q": _TRIED, "seqlen_k": _TRIED}
        small = msgspec.structs.replace(problem, **changes)
        asked = small, direction
        if asked not in self._refusals:
            self._refusals[asked] = self._refusal(small, direction)
        return self._refusals[asked]

    def forward(
        self,
        problem: AttentionProblem,
        settings: Settings,
        q: Array,
        k: Array,
        v: Array,
        *,
        extras: Extras = NO_EXTRAS,
        keep: bool = False,
    ) -> Forward:
        """o; keep=True also saves autograd's graph. A kernel need not give lse, so none is asked for."""
        set_threads(settings.num_threads)
        return forward_with_graph(self._attend(problem, extras), q, k, v, keep=keep)

    def backward(
        self,
        problem: AttentionProblem,
        settings: Settings,
        do: Array,
        q: Array,
        k: Array,
        v: Array,
        forward: Forward,
        *,
        extras: Extras = NO_EXTRAS,
        mask_gradient: bool = False,
    ) -> AttentionGradients:
        """Autograd's gradients: through `forward.saved`, or through a new forward."""
        set_threads(settings.num_threads)
        graph = forward.saved
        if graph is None:
            graph = forward_with_graph(self._attend(problem, extras), q, k, v, keep=True).saved
        return backward_through(graph, do)

    def kernel(self, problem: AttentionProblem, direction: Direction) -> Ran | None:
        """The repository, or the folder."""
        return Ran(self._source.name)

    def _attend(self, problem: AttentionProblem, extras: Extras) -> Attend:
        options = options_of(problem)
        if extras.alibi_slopes is not None:
            options["alibi_slopes"] = torch.from_numpy(extras.alibi_slopes.copy())

        def attend(q: Any, k: Any, v: Any) -> Any:
            found = self._function(*(x.transpose(1, 2) for x in (q, k, v)), **options)
            o = found[0] if isinstance(found, tuple) else found  # some return lse unasked
            return o.transpose(1, 2)

        return attend

    def _refusal(self, small: AttentionProblem, direction: Direction) -> str | None:
        """Why the kernel does not run this problem, in its own words, or None."""
        q, k, v, do = small.make_inputs()
        attend = self._attend(small, make_extras(small))
        try:
            forward = forward_with_graph(attend, q, k, v, keep=direction != "fwd")
            if direction != "fwd" and not forward.saved.o.requires_grad:
                return f"{self._source.name} has no backward: autograd knows no gradient of its result"
            if direction != "fwd":
                backward_through(forward.saved, do)
        except Exception as error:  # of whatever kind: no rule says how a kernel refuses
            words = str(error).strip().partition("\n")[0]
            return f"{self._source.name} refuses: {type(error).__name__}: {words}"
        return None

    def _ignores_dropout(self) -> bool:
        """Whether the kernel takes dropout_p, and its result is the one without it, bit for bit."""
        for dtype in self.dtypes:
            plain = AttentionProblem.of(_TRIED, dtype=dtype)
            dropping = msgspec.structs.replace(plain, dropout=0.5)
            if any(self.unsupported(problem, "fwd") for problem in (plain, dropping)):
                continue
            inputs = plain.make_inputs()[:3]
            first, second = (self.forward(problem, Settings(), *inputs).o for problem in (plain, dropping))
            return np.array_equal(first, second)
        return False
