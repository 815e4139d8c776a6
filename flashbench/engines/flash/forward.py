"""The forward pass of engine `flash`, made ready once for calls that differ in their arrays' addresses."""

from __future__ import annotations

from flashbench.dtypes import is_half
from flashbench.engines import Array, Forward, Settings
from flashbench.engines.features import switches
from flashbench.engines.flash.moves import Moves
from flashbench.engines.flash.plan import plan_of, tiling_of
from flashbench.engines.flash.prepared import (
    UNLIMITED,
    Inputs,
    Prepared,
    key_form,
    outputs_of,
    query_form,
    value_form,
)
from flashbench.engines.forms import Ints, tile_is_scattered
from flashbench.engines.launch import NO_WORK, PackedCall, address_of, placed, placed_numbers
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.kernels.call.structs import ForwardGathers, Gathers
from flashbench.kernels.flash.forward import ForwardCall, flash_forward
from flashbench.kernels.flash.scratch import FORWARD
from flashbench.kernels.products.paths import path_of
from flashbench.problem import AttentionProblem


class PreparedForward(Prepared):
    """Runs with arrays of the problem's shapes and these strides."""

    def __init__(self, problem: AttentionProblem, settings: Settings, q: Ints, k: Ints, v: Ints) -> None:
        given_q = query_form(problem, q)
        self._inputs = Inputs(given_q, key_form(problem, k), value_form(problem, v))
        q_form, k_form, v_form = self._inputs.forms
        self._o, self._lse = outputs_of(problem, given_q)
        threads, blocks = plan_of(problem, "fwd", settings._replace(num_threads=UNLIMITED))
        path = path_of(problem.dtype, settings.path)
        self._moves = Moves(problem, path, blocks, k_form, v_form, operand="v")
        o_form = self._o.form
        gathers = Gathers(int(is_half(problem.dtype) or tile_is_scattered(o_form, blocks.block_q)))
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
        copies = self._inputs.copied or bool(self._moves.rows)
        super().__init__(problem, settings, call, packed, kernel, threads, names, copies=copies)

    def run(self, q: Array, k: Array, v: Array, extras: Extras) -> Forward:
        """Compute o and lse."""
        q, k, v = self._inputs.readable(q, k, v)
        o, lse = self._o.make(), self._lse.make()
        rooms = self._moves.rooms(k, v)
        memory, owners = self.begin(extras, *map(address_of, (q, *rooms, o, lse)))
        operand = self._moves.fill(self.packed, memory, (k, v), rooms)
        memory.run(self.kernel)
        del owners, operand  # alive until here: the kernel has only their addresses
        return Forward(o, lse)

    def run_at(self, q: int, k: int, v: int) -> Forward:
        """`run` with the addresses of aligned arrays. Only if `addresses_suffice`."""
        o, lse = self._o.make(), self._lse.make()
        memory, _ = self.begin(NO_EXTRAS, q, k, v, address_of(o), address_of(lse))
        memory.run(self.kernel)
        return Forward(o, lse)
