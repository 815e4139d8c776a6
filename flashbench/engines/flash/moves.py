"""What a call lays out before its first tile: scattered k and v gathered, keys in a product's own order."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flashbench.engines import Array
from flashbench.engines.flash.block_sizes import Blocks
from flashbench.engines.flash.plan import readers_of, shares_operand
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
from flashbench.problem import AttentionProblem


class Moves:
    """The moves of a call whose k and v have these forms. operand: the one that the product reads laid out.

    k, v: forms of what tiles read. rows: of the table of moves.
    """

    def __init__(
        self,
        problem: AttentionProblem,
        path: Path,
        blocks: Blocks,
        k: Form,
        v: Form,
        *,
        operand: Literal["k", "v"],
    ) -> None:
        readers, shares = readers_of(problem), shares_operand(problem, path, blocks)
        self._gathers_k = worth_gathering(k, readers)
        # The forward pass reads v through the operand only.
        self._gathers_v = worth_gathering(v, readers) and not (shares and operand == "v")
        gathered = [x for x, gathers in ((k, self._gathers_k), (v, self._gathers_v)) if gathers]
        rows = [copy_move(x) for x in gathered]
        self._operand, self._operand_bytes = operand, 0
        if shares:
            x = k if operand == "k" else v
            columns = path.product.halves * padded(x.shape[3], WHOLE)
            move, self._operand_bytes = operand_move(x, problem, columns)
            rows.append(move)
        self.k = Form.contiguous(k.shape, k.itemsize) if self._gathers_k else k
        self.v = Form.contiguous(v.shape, v.itemsize) if self._gathers_v else v
        self.rows = tuple(rows)

    def rooms(self, k: Array, v: Array) -> tuple[Array, Array]:
        """The k and v that tiles read: themselves, or new memory to gather them into."""
        if self._gathers_k:
            k = np.empty(k.shape, k.dtype)
        return k, np.empty(v.shape, v.dtype) if self._gathers_v else v

    def fill(
        self, packed: PackedCall, memory: CallMemory, given: tuple[Array, Array], rooms: tuple[Array, Array]
    ) -> NDArray[np.uint8] | None:
        """Fill the moves' addresses in. Returns the operand's memory, which must live until the call ends."""
        if not self.rows:
            return None
        number = 0
        for source, target in zip(given, rooms, strict=True):
            if source is not target:
                packed.put_move(memory, number, address_of(source), address_of(target))
                number += 1
        if not self._operand_bytes:
            return None
        room, at = aligned_scratch(self._operand_bytes)
        packed.put_move(memory, number, address_of(given[self._operand == "v"]), at)
        return room
