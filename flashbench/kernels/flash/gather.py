"""Lay out K and V for the tiles that read them, all threads together, before the first tile.

Rows that are scattered are copied into contiguous memory, and their gradients scattered back. Products of
16-bit operands read v, and in the backward pass k, in another order: that is made once for all tiles.

In a (batch, seqlen, heads, head_dim) array, rows of one head are heads * head_dim elements apart. They fall
into few sets of every cache and evict each other, so that each tile of queries would load them again.
"""

from __future__ import annotations

from flashbench.codegen.atomics import fetch_add, look, take_ticket, wait_for
from flashbench.codegen.pointers import address_in, at, recast
from flashbench.codegen.steps import step
from flashbench.codegen.structs import CELL_BYTES, element
from flashbench.kernels.call.arrays import rows_at, rows_from, sequence_at
from flashbench.kernels.call.structs import Array, Move, MoveSizes
from flashbench.kernels.flash.scratch import WHOLE
from flashbench.kernels.maths.rows import put_multiple
from flashbench.kernels.products.split import MAY_REFUSE, splits_exactly

# Kinds of moves, `MoveSizes.kind`: a copy of the rows, or an operand of products of keys.
COPY, VALUES, K_ROWS, V_ROWS = range(4)
TICKETS = 2  # counters of `gather`, the first of the call: pieces taken, pieces done
REFUSED = 1 << 40  # added to the pieces done: a number is beyond what the product computes exactly
_PIECE = 64  # rows of all heads: at the source they are contiguous
_PARTS = 8  # parts of a head's operand: many threads have work with a single head
_MOVE_BYTES = CELL_BYTES * (2 * len(Array._fields) + len(MoveSizes._fields))


@step
def copy_rows(source, target, rows, columns, factor):
    """target[r] = factor * source[r] for `rows` rows."""
    for row in range(rows):
        put_multiple(at(target.at, row * target.row), at(source.at, row * source.row), columns, factor)


@step
def gather(product, call):
    """Carry out the call's moves, all threads together. Return when every one is done."""
    taken, done = call.work.tickets, at(call.work.tickets, 1)
    pieces = 0
    for number in range(call.work.move_count):
        pieces += _pieces_of(call, _move_at(call, number))
    while True:
        piece = take_ticket(taken)
        if piece >= pieces:
            break
        _move_piece(product, call, piece)
        fetch_add(done, 1)
    wait_for(done, pieces)


@step
def _move_at(call, number):
    return element(Move, call, call.work.moves + number * _MOVE_BYTES)


@step
def _pieces_of(call, move):
    if move.sizes.kind != COPY:
        return call.work.sequence_count * move.sizes.heads * _PARTS
    return move.sizes.batch * _pieces_of_entry(move)


@step
def _pieces_of_entry(move):
    return (move.sizes.rows + _PIECE - 1) // _PIECE


@step
def _move_piece(product, call, piece):
    for number in range(call.work.move_count):
        move = _move_at(call, number)
        if piece < _pieces_of(call, move):
            if move.sizes.kind != COPY:
                _make_operand(product, call, move, piece)
            else:
                _copy_piece(move, piece)
            return
        piece -= _pieces_of(call, move)


@step
def _copy_piece(move, piece):
    pieces = _pieces_of_entry(move)
    b, first = piece // pieces, piece % pieces * _PIECE
    for row in range(first, min(first + _PIECE, move.sizes.rows)):
        _copy_row(move, b, row)


@step
def _make_operand(product, call, move, piece):
    """Make a part of one head's operand: whole blocks of the keys of a sequence."""
    part, head = piece % _PARTS, piece // _PARTS % move.sizes.heads
    b = piece // _PARTS // move.sizes.heads
    sequence = sequence_at(call, b)
    blocks = (sequence.seqlen_k + WHOLE - 1) // WHOLE
    first, end = blocks * part // _PARTS * WHOLE, blocks * (part + 1) // _PARTS * WHOLE
    rows = min(end, sequence.seqlen_k) - first
    if rows > 0:
        source = rows_at(move.source, sequence.batch, head, sequence.first_key + first)
        place = _operand_at(call, move, b, head, first)
        check_rows(product, call, source, rows, move.sizes.columns)
        if move.sizes.kind == VALUES:
            product.values(source, rows, move.sizes.columns, place)
        else:
            product.keys(source, rows, move.sizes.columns, place)


@step
def _operand_at(call, move, b, head, key):
    """Where the operand of a key, the first of its block, is. Each sequence begins with its own block."""
    sequence = sequence_at(call, b)
    block = sequence.first_key // WHOLE + (b - sequence.batch) + key // WHOLE
    return recast(call.zero, rows_at(move.target, sequence.batch, head, block).at)


@step
def operand_of(call, queries, keys, kind, room):
    """(place, rows): where a tile's operand is, and how many rows must be made there: 0 if a move did it.

    room: scratch, for a tile that is not whole blocks.
    """
    ends = keys.rows % WHOLE == 0 or keys.start + keys.rows == queries.sequence.seqlen_k
    if keys.start % WHOLE == 0 and ends:
        for number in range(call.work.move_count):
            move = _move_at(call, number)
            if move.sizes.kind == kind:
                return _operand_at(call, move, queries.b, queries.h // call.sizes.group, keys.start), 0
    return room, keys.rows


@step
def check_rows(product, call, x, rows, columns):
    """Refuse the call if the product cannot compute with a number of x. Its results are then of no use.

    So it does not matter that `gather`, which waits for the same counter, then returns early.
    """
    if product.parts == MAY_REFUSE and not splits_exactly(x.at, x.row, rows, columns):
        done = at(call.work.tickets, 1)
        if look(done) < REFUSED:  # at most once per thread: the sum of one for each tile could overflow
            fetch_add(done, REFUSED)


@step
def keys_operand(product, call, queries, keys, x, columns, kind, room):
    """The operand of `product.scores`. x: rows of k or v of the sequence."""
    place, unmade = operand_of(call, queries, keys, kind, room)
    rows = rows_from(x, keys.start)
    check_rows(product, call, rows, unmade, columns)
    return product.keys(rows, unmade, columns, place)


@step
def _copy_row(move, b, row):
    """Copy one row of all heads: at the source they are contiguous."""
    for h in range(move.sizes.heads):
        source, target = rows_at(move.source, b, h, row), rows_at(move.target, b, h, row)
        put_multiple(target.at, source.at, move.sizes.columns, move.zero + 1)


@step
def scatter(gathered, home, sequence, head, columns, factor):
    """Copy one head's gradients, times `factor`, from the array in which they grew to the output `home`.

    No copy if both are the same array and the factor is 1.
    """
    if address_in(gathered.at) != address_in(home.at) or factor != 1:
        source = rows_at(gathered, sequence.batch, head, sequence.first_key)
        target = rows_at(home, sequence.batch, head, sequence.first_key)
        copy_rows(source, target, sequence.seqlen_k, columns, factor)
