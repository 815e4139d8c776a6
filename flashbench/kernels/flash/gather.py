"""Copy scattered K/V rows into contiguous memory before tiles read them, and scatter their gradients back.

In a (batch, seqlen, heads, head_dim) array, rows of one head are heads * head_dim elements apart. They fall
into few sets of every cache and evict each other, so that each tile of queries would load them again.
"""

from __future__ import annotations

from flashbench.codegen.atomics import fetch_add, take_ticket, wait_for
from flashbench.codegen.pointers import address_in, at
from flashbench.codegen.steps import step
from flashbench.codegen.structs import CELL_BYTES, element
from flashbench.kernels.call.arrays import rows_at
from flashbench.kernels.call.structs import Array, Move, MoveSizes
from flashbench.kernels.maths.rows import put_multiple

TICKETS = 2  # counters of `gather`, the first of the call: pieces taken, pieces done
_PIECE = 64  # rows of all heads: at the source they are contiguous
_MOVE_BYTES = CELL_BYTES * (2 * len(Array._fields) + len(MoveSizes._fields))


@step
def copy_rows(source, target, rows, columns, factor):
    """target[r] = factor * source[r] for `rows` rows."""
    for row in range(rows):
        put_multiple(at(target.at, row * target.row), at(source.at, row * source.row), columns, factor)


@step
def gather(call):
    """Copy the arrays of the call's moves, all threads together. Return when every copy is done."""
    taken, done = call.work.tickets, at(call.work.tickets, 1)
    pieces = 0
    for number in range(call.work.move_count):
        pieces += _pieces_of(_move_at(call, number))
    while True:
        piece = take_ticket(taken)
        if piece >= pieces:
            break
        _copy_piece(call, piece)
        fetch_add(done, 1)
    wait_for(done, pieces)


@step
def _move_at(call, number):
    return element(Move, call, call.work.moves + number * _MOVE_BYTES)


@step
def _pieces_of(move):
    return move.sizes.batch * _pieces_of_entry(move)


@step
def _pieces_of_entry(move):
    return (move.sizes.rows + _PIECE - 1) // _PIECE


@step
def _copy_piece(call, piece):
    for number in range(call.work.move_count):
        move = _move_at(call, number)
        if piece < _pieces_of(move):
            pieces = _pieces_of_entry(move)
            b, first = piece // pieces, piece % pieces * _PIECE
            for row in range(first, min(first + _PIECE, move.sizes.rows)):
                _copy_row(move, b, row)
            return
        piece -= _pieces_of(move)


@step
def _copy_row(move, b, row):
    """Copy one row of all heads: at the source they are contiguous."""
    for h in range(move.sizes.heads):
        source, target = rows_at(move.source, b, h, row), rows_at(move.target, b, h, row)
        put_multiple(target.at, source.at, move.sizes.columns, move.zero + 1)


@step
def scatter(gathered, home, sequence, head, columns, factor):
    """Copy one head's gradients, times `factor`, from the array in which they grew to the output `home`.

    No copy if both are the same array.
    """
    if address_in(gathered.at) != address_in(home.at):
        source = rows_at(gathered, sequence.batch, head, sequence.first_key)
        target = rows_at(home, sequence.batch, head, sequence.first_key)
        copy_rows(source, target, sequence.seqlen_k, columns, factor)
