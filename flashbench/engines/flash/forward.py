"""The forward pass of engine `flash`, made ready once for calls that differ in their arrays' addresses."""

from __future__ import annotations

from flashbench.engines import Array, Forward, Settings
from flashbench.engines.features import switches
from flashbench.engines.flash.decode import PreparedDecode, decodes
from flashbench.engines.flash.moves import Moves
from flashbench.engines.flash.plan import OTHERWISE, path_for, plan_of, tiling_of
from flashbench.engines.flash.prepared import (
    UNLIMITED,
    Inputs,
    PreparedOutput,
    kept,
    key_form,
    outputs_of,
    query_form,
    value_form,
)
from flashbench.engines.forms import Ints, tile_is_scattered
from flashbench.engines.launch import NO_WORK, PackedCall, address_of, placed, placed_numbers
from flashbench.extras import Extras
from flashbench.kernels.call.structs import ForwardGathers, Gathers
from flashbench.kernels.flash.forward import ForwardCall, flash_forward
from flashbench.kernels.flash.scratch import FORWARD
from flashbench.problem import AttentionProblem


class PreparedForward(PreparedOutput):
    """Runs with arrays of the problem's shapes and these strides."""

    def __init__(self, problem: AttentionProblem, settings: Settings, q: Ints, k: Ints, v: Ints) -> None:
        given_q = query_form(problem, q)
        self._inputs = Inputs(given_q, key_form(problem, k), value_form(problem, v))
        q_form, k_form, v_form = self._inputs.forms
        self._o, self._lse = outputs_of(problem, given_q)
        threads, blocks = plan_of(problem, "fwd", settings._replace(num_threads=UNLIMITED))
        path = path_for(problem, "fwd", settings.path)
        self._moves = Moves(problem, path, blocks, "fwd", k_form, v_form)
        o_form = self._o.form
        gathers = Gathers(int(path.copies or tile_is_scattered(o_form, blocks.block_q)))
        tiling = tiling_of(problem, FORWARD, blocks, path, gathers)
        call = ForwardCall(
            placed(q_form),
            placed(self._moves.k),
            placed(self._moves.v),
            placed(o_form),
            placed_numbers(self._lse.form),
            tiling.scratch,
            ForwardGathers(gathers.sums),
            tiling.sizes,
            NO_WORK,
            switches(problem),
        )
        packed = PackedCall(
            call, tiling.sequences, tiling.counters, tiling.stride, tasks=tiling.tasks, moves=self._moves.rows
        )
        kernel = flash_forward(path.product, problem.dtype)
        names = "q", "k", "v", "o", "lse"
        copies = self._inputs.copied or self._moves.need_arrays
        super().__init__(problem, settings, call, packed, kernel, threads, names, copies=copies)

    def run(self, q: Array, k: Array, v: Array, extras: Extras) -> Forward:
        """Compute o and lse."""
        given = q, k, v
        q, k, v = self._inputs.readable(q, k, v)
        o, lse = self._o.make(), self._lse.make()
        rooms = self._moves.rooms(k, v)
        memory, owners = self.begin(extras, *map(address_of, (q, *rooms, o, lse)))
        operands = self._moves.fill(self.packed, memory, (k, v), rooms)
        memory.run(self.kernel)
        if memory.refused:
            otherwise = self.settings._replace(path=OTHERWISE)
            strides = (x.strides for x in given)
            return prepared_forward(self.problem, otherwise, *strides).run(*given, extras)
        del owners, operands  # alive until here: the kernel has only their addresses
        return Forward(o, lse)


@kept
def prepared_forward(
    problem: AttentionProblem, settings: Settings, q: Ints, k: Ints, v: Ints
) -> PreparedForward | PreparedDecode:
    """The forward pass for arrays of these strides."""
    kind = PreparedDecode if decodes(problem, settings) else PreparedForward
    return kind(problem, settings, q, k, v)
