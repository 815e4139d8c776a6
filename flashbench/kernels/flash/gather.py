"""Keys and values brought together before all tiles of queries read them, and their gradients sent home.

Rows of one head of a (batch, seqlen, heads, head_dim) array lie so far apart that its keys and values fall
into few sets of every cache, and each tile of queries would wait for them again.
"""

from __future__ import annotations

from numba import njit

from flashbench.codegen.atomics import fetch_add, take_ticket, wait_for
from flashbench.codegen.pointers import at, pointer
from flashbench.kernels.tile.edit import put_multiple

# Columns of a table of moves: from where, to where (addresses; strides of batch and head in bytes, of rows in
# elements), and how much.
(
    SOURCE,
    SOURCE_BATCH,
    SOURCE_HEAD,
    SOURCE_ROW,
    TARGET,
    TARGET_BATCH,
    TARGET_HEAD,
    TARGET_ROW,
    BATCH,
    HEADS,
    ROWS,
    COLUMNS,
) = range(12)
MOVE_COLUMNS = 12
_PIECE = 64  # rows, of all heads, as they follow each other in memory
TICKETS = 2  # that `bring_together` needs: pieces taken, pieces done


@njit(nogil=True)
def copy_rows(source, source_row, target, target_row, rows, columns, one):
    """target[r] = source[r], rows as far apart as each side has them; one: 1 in their dtype."""
    for row in range(rows):
        put_multiple(at(target, row * target_row), at(source, row * source_row), columns, one)


@njit(nogil=True)
def bring_together(zero, moves, tickets, slot):
    """Do the moves together with all other threads of the call; returns when every one of them is done.

    tickets: TICKETS counters, 0 at first.
    """
    taken, done = pointer(slot, tickets), at(pointer(slot, tickets), 1)
    pieces = 0
    for move in moves:
        pieces += move[BATCH] * _pieces_of(move)
    while True:
        piece = take_ticket(taken)
        if piece >= pieces:
            break
        _copy_piece(zero, moves, piece)
        fetch_add(done, 1)
    wait_for(done, pieces)


@njit(nogil=True)
def _pieces_of(move):
    return (move[ROWS] + _PIECE - 1) // _PIECE


@njit(nogil=True)
def _copy_piece(zero, moves, piece):
    for move in moves:
        pieces = _pieces_of(move)
        if piece < move[BATCH] * pieces:
            b, first = piece // pieces, piece % pieces * _PIECE
            for row in range(first, min(first + _PIECE, move[ROWS])):
                _copy_row(zero, move, b, row)
            return
        piece -= move[BATCH] * pieces


@njit(nogil=True)
def _copy_row(zero, move, b, row):
    """Of all heads: they are neighbours where it comes from."""
    for h in range(move[HEADS]):
        source = pointer(zero, move[SOURCE] + b * move[SOURCE_BATCH] + h * move[SOURCE_HEAD])
        target = pointer(zero, move[TARGET] + b * move[TARGET_BATCH] + h * move[TARGET_HEAD])
        source_row, target_row = at(source, row * move[SOURCE_ROW]), at(target, row * move[TARGET_ROW])
        put_multiple(target_row, source_row, move[COLUMNS], zero + 1)


@njit(nogil=True)
def send_home(zero, rows_near, near, home, batch, head, first, rows, columns):
    """Copy some rows of a head to where they belong, if that is elsewhere.

    near, home: (address, batch stride, head stride, row stride), as the kernels' tables of arrays have them.
    """
    if near[0] != home[0]:
        head_home = pointer(zero, home[0] + batch * home[1] + head * home[2])
        copy_rows(rows_near, near[3], at(head_home, first * home[3]), home[3], rows, columns, zero + 1)
