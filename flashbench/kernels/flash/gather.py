"""Copy scattered K/V rows into contiguous memory before tiles read them, and scatter their gradients back.

Rows of one head of a (batch, seqlen, heads, head_dim) array lie so far apart that its keys and values fall
into few sets of every cache, and each tile of queries would wait for them again.
"""

from __future__ import annotations

from flashbench.codegen.atomics import fetch_add, take_ticket, wait_for
from flashbench.codegen.pointers import address_in, at
from flashbench.codegen.steps import step
from flashbench.codegen.structs import CELL_BYTES, element
from flashbench.kernels.call.arrays import rows_at
from flashbench.kernels.call.structs import Array, Move, MoveSizes
from flashbench.kernels.tile.edit import put_multiple

TICKETS = 2  # that `gather` takes from the call's: pieces taken, pieces done
_PIECE = 64  # rows, of all heads, as they follow each other in memory
_MOVE_BYTES = CELL_BYTES * (2 * len(Array._fields) + len(MoveSizes._fields))


@step
def copy_rows(source, target, rows, columns, one):
    """target[r] = source[r]; one: 1 of their dtype."""
    for row in range(rows):
        put_multiple(at(target.at, row * target.row), at(source.at, row * source.row), columns, one)


@step
def gather(call):
    """Do the call's moves together with its other threads; returns when every move is done."""
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
    """Of all heads, which are neighbours at the source."""
    for h in range(move.sizes.heads):
        source, target = rows_at(move.source, b, h, row), rows_at(move.target, b, h, row)
        put_multiple(target.at, source.at, move.sizes.columns, move.zero + 1)


@step
def scatter(gathered, home, sequence, head, columns):
    """Copy a head's rows of gathered gradients to where they belong, unless they are there.

    gathered, home: arrays of a call.
    """
    if address_in(gathered.at) != address_in(home.at):
        source = rows_at(gathered, sequence.batch, head, sequence.first_key)
        target = rows_at(home, sequence.batch, head, sequence.first_key)
        copy_rows(source, target, sequence.seqlen_k, columns, home.zero + 1)
