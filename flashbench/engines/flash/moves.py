"""What a call lays out before its first tile: scattered k and v gathered, keys in a product's order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flashbench.engines import Array
from flashbench.engines.flash.block_sizes import Blocks, Pass
from flashbench.engines.flash.plan import (
    kinds_of_operands,
    readers_of,
    reads_v,
    shares_operands,
)
from flashbench.engines.forms import Form, worth_gathering
from flashbench.engines.launch import (
    CallMemory,
    PackedCall,
    address_of,
    aligned_scratch,
    copy_move,
    operand_move,
)
from flashbench.kernels.flash.scratch import WHOLE, padded
from flashbench.kernels.products.paths import Path
from flashbench.kernels.products.split import MAY_REFUSE
from flashbench.problem import AttentionProblem


class Moves:
    """The moves of a call whose k and v have these forms.

    k, v: forms of what tiles read. rows: of the table of moves. need_arrays: the call needs the arrays, not
    their addresses alone: to lay them out, or to run again by another path.
    """

    def __init__(
        self, problem: AttentionProblem, path: Path, blocks: Blocks, direction: Pass, k: Form, v: Form
    ) -> None:
        kinds = kinds_of_operands(path, direction) if shares_operands(problem, path, blocks) else ()
        laid_out = [reads_v(kind, direction) for kind in kinds]
        readers = readers_of(problem)
        # The forward pass reads through its operand only what is laid out as one.
        forward = direction == "fwd"
        self._gathers_k = worth_gathering(k, readers) and not (forward and False in laid_out)
        self._gathers_v = worth_gathering(v, readers) and not (forward and True in laid_out)
        gathered = [x for x, gathers in ((k, self._gathers_k), (v, self._gathers_v)) if gathers]
        rows = [copy_move(x) for x in gathered]
        self._operands: list[tuple[bool, int]] = []  # (whether it is made of v, bytes)
        for kind, of_v in zip(kinds, laid_out, strict=True):
            x = v if of_v else k
            move, size = operand_move(kind, x, problem, path.product.parts * padded(x.shape[3], WHOLE))
            rows.append(move)
            self._operands.append((of_v, size))
        self.k = Form.contiguous(k.shape, k.itemsize) if self._gathers_k else k
        self.v = Form.contiguous(v.shape, v.itemsize) if self._gathers_v else v
        self.rows = tuple(rows)
        self.need_arrays = bool(rows) or path.product.parts == MAY_REFUSE

    def rooms(self, k: Array, v: Array) -> tuple[Array, Array]:
        """The k and v that tiles read: themselves, or new memory to gather them into."""
        if self._gathers_k:
            k = np.empty(k.shape, k.dtype)
        return k, np.empty(v.shape, v.dtype) if self._gathers_v else v

    def fill(
        self, packed: PackedCall, memory: CallMemory, given: tuple[Array, Array], rooms: tuple[Array, Array]
    ) -> list[NDArray[np.uint8]]:
        """Fill the moves' addresses in. Returns the operands' memory, which must live until the call ends."""
        operands: list[NDArray[np.uint8]] = []
        if not self.rows:
            return operands
        number = 0
        for source, target in zip(given, rooms, strict=True):
            if source is not target:
                packed.put_move(memory, number, address_of(source), address_of(target))
                number += 1
        for of_v, size in self._operands:
            room, at = aligned_scratch(size)
            packed.put_move(memory, number, address_of(given[of_v]), at)
            operands.append(room)
            number += 1
        return operands
