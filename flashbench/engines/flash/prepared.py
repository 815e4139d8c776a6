"""Calls made ready: all of a call but the addresses of its arrays, made once and kept.

A prepared call is a function of its key alone: problem, settings, and the strides of the arrays. Calls with
equal keys share it, in several threads at once, because nobody writes into it. Each call has memory of its
own (`PackedCall.begin`), and nothing else is kept between calls.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import numpy as np

from flashbench.dtypes import DTYPES, accumulator_of
from flashbench.engines import Array, Settings
from flashbench.engines.features import array_fields, has_arrays
from flashbench.engines.forms import Form, Ints, Result
from flashbench.engines.launch import CallMemory, PackedCall, cell_of
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.kernels.call.structs import Features
from flashbench.problem import AttentionProblem
from flashbench.system.cores import available_cores

# A prepared call takes 1 to 5 KiB, so all together take little more than a MiB in each direction. Those of
# larger batches are not kept, as their tables of sequences are long.
MOST_KEPT, MOST_SEQUENCES = 256, 64
# More threads than any machine has: the number that a prepared call can use then depends on the problem only.
UNLIMITED = 2**31

Prepare = TypeVar("Prepare", bound=Callable[..., Any])

_FEATURE = {name: index for index, name in enumerate(Features._fields)}


def kept(prepare: Prepare) -> Prepare:
    """prepare(problem, settings, *strides) with its last results kept."""
    found = functools.lru_cache(maxsize=MOST_KEPT)(prepare)

    @functools.wraps(prepare, updated=())
    def prepared(problem: AttentionProblem, *rest: Any) -> Any:
        return (found if problem.batch <= MOST_SEQUENCES else prepare)(problem, *rest)

    prepared.cache_clear, prepared.cache_info = found.cache_clear, found.cache_info  # type: ignore[attr-defined]
    return cast(Prepare, prepared)


class Prepared:
    """The part that all directions share.

    call: the struct that `packed` was made from. arrays: the names of its fields whose addresses are those of
    arrays, in the order of `begin`. most_threads: as many as are worth waking, if there are so many.
    addresses_suffice: whether `run_at` can run it, as nothing is copied and no feature has an array.
    """

    def __init__(
        self,
        problem: AttentionProblem,
        settings: Settings,
        call: Any,
        packed: PackedCall,
        kernel: Any,
        most_threads: int,
        arrays: Iterable[str],
        *,
        copies: bool,
    ) -> None:
        self.problem, self.settings, self.packed, self.kernel = problem, settings, packed, kernel
        self.most_threads, self._num_threads = most_threads, settings.num_threads
        self._places = tuple(cell_of(call, name) for name in arrays)
        self._features = cell_of(call, "features") if has_arrays(problem) else None
        self.addresses_suffice = not copies and self._features is None

    def begin(
        self, extras: Extras, *addresses: int, num_threads: int | None = None
    ) -> tuple[CallMemory, Any]:
        """(memory, owners): a call's memory, with the addresses of its arrays and of those of `extras`.

        owners: what must live until the call is over beside the arrays that are at `addresses`. num_threads:
        None: those of the settings, or all cores.
        """
        threads = self.most_threads
        if threads > 1:
            threads = min(threads, num_threads or self._num_threads or available_cores())
        memory = self.packed.begin(threads)
        table = memory.table
        for place, address in zip(self._places, addresses, strict=True):
            table[place] = address
        if self._features is None:
            return memory, None
        fields, owners = array_fields(self.problem, extras)
        for name, value in fields.items():
            table[self._features + _FEATURE[name]] = value
        return memory, owners


class PreparedOutput(Prepared):
    """A prepared call that computes o and lse."""

    _o: Result
    _lse: Result

    @property
    def results(self) -> tuple[Result, ...]:
        """How `run_at` wants memory for o and lse."""
        return self._o, self._lse

    def run_at(self, *addresses: int, num_threads: int) -> None:
        """`run` with the addresses of aligned q, k, v, o and lse. Only if `addresses_suffice`."""
        memory, owners = self.begin(NO_EXTRAS, *addresses, num_threads=num_threads)
        memory.run(self.kernel)
        del owners  # alive until here: the kernel has only their addresses


def query_form(problem: AttentionProblem, strides: Ints) -> Form:
    """Of q, or of an array of its shape and dtype."""
    return Form(problem.q_shape, strides, problem.itemsize)


def key_form(problem: AttentionProblem, strides: Ints) -> Form:
    """Of k."""
    return Form(problem.k_shape, strides, problem.itemsize)


def value_form(problem: AttentionProblem, strides: Ints) -> Form:
    """Of v."""
    return Form((*problem.k_shape[:3], problem.head_dim_v), strides, problem.itemsize)


def output_form(problem: AttentionProblem, strides: Ints) -> Form:
    """Of o, or of an array of its shape and dtype."""
    return Form((*problem.q_shape[:3], problem.head_dim_v), strides, problem.itemsize)


def outputs_of(problem: AttentionProblem, q: Form) -> tuple[Result, Result]:
    """o, in the memory order of q, and lse."""
    number = np.dtype(accumulator_of(problem.dtype).storage)
    o = Result.like(q, problem.head_dim_v, DTYPES[problem.dtype].storage)
    return o, Result(problem.q_shape[:3], number)


class Inputs:
    """The inputs of a prepared call: which of them are copied because a kernel cannot read them."""

    def __init__(self, *given: Form) -> None:
        self._copied = tuple(not x.readable for x in given)
        self.copied = any(self._copied)
        self.forms = tuple(x if x.readable else Form.contiguous(x.shape, x.itemsize) for x in given)

    def readable(self, *arrays: Array) -> tuple[Array, ...]:
        """The arrays as the kernel reads them."""
        if not self.copied:
            return arrays
        return tuple(
            np.ascontiguousarray(x) if copied else x for x, copied in zip(arrays, self._copied, strict=True)
        )
