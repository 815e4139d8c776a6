"""The backward pass of engine `flash`, made ready once for calls that differ in their arrays' addresses."""

from __future__ import annotations

import numpy as np

from flashbench.dtypes import DTYPES, accumulator_of, is_half
from flashbench.engines import Array, AttentionGradients, Settings
from flashbench.engines.features import call_features, sinks_gradient, switches
from flashbench.engines.flash.moves import Moves
from flashbench.engines.flash.plan import OTHERWISE, path_for, plan_of, readers_of, tiling_of
from flashbench.engines.flash.prepared import (
    UNLIMITED,
    Inputs,
    Prepared,
    kept,
    key_form,
    output_form,
    query_form,
    value_form,
)
from flashbench.engines.forms import Form, Ints, Result, tile_is_scattered, worth_gathering
from flashbench.engines.launch import (
    NO_WORK,
    PackedCall,
    address_of,
    place,
    place_numbers,
    placed,
    placed_numbers,
)
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.kernels.call.structs import Gathers
from flashbench.kernels.flash.backward import BackwardCall, flash_backward
from flashbench.kernels.flash.mask_gradient import MaskGradientCall, MaskShape, flash_mask_gradient
from flashbench.kernels.flash.scratch import BACKWARD, MASK_GRADIENT
from flashbench.kernels.products.paths import PATHS
from flashbench.kernels.products.split import MAY_REFUSE
from flashbench.problem import AttentionProblem

_ARRAYS = "q", "k", "v", "o", "do", "dq", "dk", "dv", "dk_home", "dv_home", "lse"


class PreparedBackward(Prepared):
    """Runs with arrays of the problem's shapes and these strides."""

    def __init__(
        self,
        problem: AttentionProblem,
        settings: Settings,
        do: Ints,
        q: Ints,
        k: Ints,
        v: Ints,
        o: Ints,
        lse: Ints,
    ) -> None:
        number = np.dtype(accumulator_of(problem.dtype).storage)
        given_q, given_k, given_v = query_form(problem, q), key_form(problem, k), value_form(problem, v)
        self._inputs = Inputs(
            output_form(problem, do),
            given_q,
            given_k,
            given_v,
            output_form(problem, o),
            Form((*problem.q_shape[:3], 1), (*lse, 0), number.itemsize),  # rows of one number
        )
        do_form, q_form, k_form, v_form, o_form, lse_form = self._inputs.forms
        storage = DTYPES[problem.dtype].storage
        self._dq = Result.like(given_q, problem.head_dim, storage)
        # No task writes dk and dv of padding keys, so they must be zero before.
        zeros = problem.key_lengths is not None
        self._dk, self._dv = (Result.like(x, x.shape[3], storage, zeros=zeros) for x in (given_k, given_v))
        self._sums = tuple(_sums(x, problem, number) for x in (self._dk, self._dv))
        threads, blocks = plan_of(problem, "bwd", settings._replace(num_threads=UNLIMITED))
        path = path_for(problem, "bwd", settings.path)
        self._moves = Moves(problem, path, blocks, "bwd", k_form, v_form)
        dq_form = self._dq.form
        scattered = (int(tile_is_scattered(x, blocks.block_q)) for x in (dq_form, q_form, do_form))
        gathers = Gathers(sums=1) if path.copies else Gathers(*scattered)
        tiling = tiling_of(problem, BACKWARD, blocks, path, gathers)
        dk_sums, dv_sums = (
            (sums or home).form for sums, home in zip(self._sums, (self._dk, self._dv), strict=True)
        )
        call = BackwardCall(
            placed(q_form),
            placed(self._moves.k),
            placed(self._moves.v),
            placed(o_form),
            placed(do_form),
            placed(dq_form),
            placed_numbers(dk_sums),
            placed_numbers(dv_sums),
            placed(self._dk.form),
            placed(self._dv.form),
            placed_numbers(lse_form),
            tiling.scratch,
            gathers,
            tiling.sizes,
            NO_WORK,
            switches(problem),
        )
        packed = PackedCall(call, tiling.sequences, tiling.counters, tiling.stride, moves=self._moves.rows)
        kernel = flash_backward(path.product, problem.dtype)
        copies = self._inputs.copied or self._moves.need_arrays
        super().__init__(problem, settings, call, packed, kernel, threads, _ARRAYS, copies=copies)

    def run(
        self,
        do: Array,
        q: Array,
        k: Array,
        v: Array,
        o: Array,
        lse: Array,
        extras: Extras,
        *,
        mask_gradient: bool,
    ) -> AttentionGradients:
        """Compute the gradients."""
        dq, dk, dv = self._dq.make(), self._dk.make(), self._dv.make()
        dsinks = sinks_gradient(self.problem, extras, do, o, lse)
        given = do, q, k, v, o, lse
        do, q, k, v, o, lse = self._inputs.readable(do, q, k, v, o, lse)
        rooms = self._moves.rooms(k, v)
        dk_sums, dv_sums = self._make_sums(dk, dv)
        arrays = q, *rooms, o, do, dq, dk_sums, dv_sums, dk, dv, lse
        memory, owners = self.begin(extras, *map(address_of, arrays))
        operands = self._moves.fill(self.packed, memory, (k, v), rooms)
        memory.run(self.kernel)
        if memory.refused:
            otherwise = self.settings._replace(path=OTHERWISE)
            prepared = prepared_backward(self.problem, otherwise, *(x.strides for x in given))
            return prepared.run(*given, extras, mask_gradient=mask_gradient)
        # Alive until here: the kernel has only their addresses.
        del memory, owners, operands, arrays, dk_sums, dv_sums
        dmask = None
        if mask_gradient and self.problem.mask == "float":
            dmask = _mask_gradient(self.problem, self.settings, extras, do, q, *rooms, o, lse)
        return AttentionGradients(dq, dk, dv, dsinks, dmask)

    @property
    def results(self) -> tuple[Result, ...]:
        """How `run_at` wants memory for dq, dk and dv."""
        return self._dq, self._dk, self._dv

    def run_at(self, *addresses: int, num_threads: int) -> None:
        """`run` with the addresses of aligned do, q, k, v, o, lse, dq, dk, dv. Only if `addresses_suffice`.

        The memory for dk and dv holds zeros where `results` says so.
        """
        do, q, k, v, o, lse, dq, dk, dv = addresses
        sums = [None if x is None else x.make() for x in self._sums]
        grow = (home if x is None else address_of(x) for x, home in zip(sums, (dk, dv), strict=True))
        memory, _ = self.begin(NO_EXTRAS, q, k, v, o, do, dq, *grow, dk, dv, lse, num_threads=num_threads)
        memory.run(self.kernel)
        del sums  # alive until here

    def _make_sums(self, dk: Array, dv: Array) -> tuple[Array, Array]:
        """The arrays in which dk and dv grow."""
        dk_sums, dv_sums = self._sums
        return dk if dk_sums is None else dk_sums.make(), dv if dv_sums is None else dv_sums.make()


prepared_backward = kept(PreparedBackward)


def _sums(output: Result, problem: AttentionProblem, number: np.dtype[np.generic]) -> Result | None:
    """The room in which dk or dv grows: one of accumulators, or contiguous; None: in the output itself."""
    shape = output.form.shape
    if is_half(problem.dtype):
        return Result(shape, number)
    return Result(shape, output.dtype) if worth_gathering(output.form, readers_of(problem)) else None


def _mask_gradient(
    problem: AttentionProblem,
    settings: Settings,
    extras: Extras,
    do: Array,
    q: Array,
    k: Array,
    v: Array,
    o: Array,
    lse: Array,
) -> Array:
    """dmask in the shape of the mask. The arrays must already be `readable`."""
    threads, blocks = plan_of(problem, "bwd", settings)
    dmask = np.zeros(problem.mask_shape, accumulator_of(problem.dtype).storage)
    path = path_for(problem, "bwd", settings.path)
    if path.product.parts == MAY_REFUSE:
        path = PATHS[OTHERWISE]
    tiling = tiling_of(problem, MASK_GRADIENT, blocks, path)
    features, owners = call_features(problem, extras)
    call = MaskGradientCall(
        place(q),
        place(k),
        place(v),
        place(o),
        place(do),
        place_numbers(lse),
        place_numbers(dmask),
        MaskShape(*problem.mask_shape),
        tiling.scratch,
        tiling.sizes,
        NO_WORK,
        features,
    )
    memory = PackedCall(call, tiling.sequences, tiling.counters, tiling.stride).begin(threads)
    memory.run(flash_mask_gradient(path.product, problem.dtype))
    del memory, owners
    return dmask
