"""The arguments of a kernel call, by name: arrays, sizes, features, shared counters.

A call is a struct of structs. Python writes it into one table (codegen/structs.py) and passes the kernel its
address. The last two structs, `Queries` and `Keys`, are made by the kernels: the current tiles.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from flashbench.codegen.structs import Number, Storage, Word


class Array(NamedTuple):
    """An array (batch, heads, rows, columns) of the storage type. Elements of a row are contiguous."""

    at: Storage
    batch: int  # stride in bytes
    head: int  # stride in bytes
    row: int  # stride in elements


class Numbers(NamedTuple):
    """An array of the accumulator type, with the same strides: lse, sums, gradients while they grow."""

    at: Number
    batch: int
    head: int
    row: int


class Sizes(NamedTuple):
    num_heads: int
    num_kv_heads: int
    group: int  # query heads that share a key/value head
    head_dim: int
    head_dim_v: int
    block_q: int
    block_k: int


class Work(NamedTuple):
    """Shared state of the threads of a call."""

    threads: int  # that the call may use
    tasks: int  # number of tasks
    sequences: int  # address of the table of `Sequence`
    sequence_count: int
    moves: int  # address of the table of `Move`: the arrays to gather first
    move_count: int
    tickets: Word  # counters, initially zero: a thread takes a task by adding 1
    finite: Word  # a flag per key/value head of each sequence: 0 not checked yet, 1 finite, 2 not finite
    progress: Word  # the backward pass: for each task, the number of keys it has passed
    scratch: int  # address of the first thread's scratch
    scratch_stride: int  # bytes to the next thread's scratch


class ForwardGathers(NamedTuple):
    """1: a task works on a copy of its tile of these rows, in scratch. 0: it works in place."""

    sums: int  # o


class Gathers(NamedTuple):
    """The same for the backward pass."""

    sums: int = 0  # dq
    q: int = 0
    do: int = 0


class Sequence(NamedTuple):
    """One sequence of the batch: its place in the arrays and the number of its first task."""

    batch: int  # index on the arrays' first axis
    first_query: int  # index of its first row in q
    first_key: int  # index of its first row in k and v
    seqlen_q: int
    seqlen_k: int
    diagonal: int  # the last key that query 0 attends to, if causal
    tiles_before: int  # tiles per head in all sequences before it


class MoveSizes(NamedTuple):
    batch: int
    heads: int
    rows: int
    columns: int
    kind: int  # see gather.py


class Move(NamedTuple):
    """An array to copy from `source` to `target` before tiles read it.

    An operand's target has blocks of keys. batch and head: bytes; row: elements from block to block.
    """

    source: Array
    target: Array
    sizes: MoveSizes


class Features(NamedTuple):
    """The optional features: switches, numbers and arrays.

    Kernels test a switch once per tile, not once per score. So one machine code serves every combination, and
    a feature that is off costs one branch per tile. Strides: of batch and head in bytes, else in elements.
    """

    q_factor: float  # multiplies q when it is packed: scores come in log2 units, or in units of the softcap
    scale: float  # softmax_scale
    cap: float  # softcap * log2(e); 0: off
    keep_factor: float  # 1 / (1 - dropout)
    left: int  # keys before the diagonal that a query attends to
    right: int  # keys after the diagonal
    alibi: int  # 1: on; so for sinks
    sinks: int
    mask: int  # NO_MASK, BOOL_MASK, FLOAT_MASK or BLOCK_MASK
    dropout: int
    slopes: Number
    slopes_batch: int
    slopes_head: int
    sink_logits: Number
    sinks_head: int
    mask_at: int
    mask_batch: int  # stride of the entries; with a block mask, stride of `starts`
    mask_head: int
    mask_row: int
    mask_key: int
    mask_size: int  # bytes of an entry
    starts: int  # block mask: address of the first index in the lists below, for each row of blocks
    columns: Word  # block mask: block index along the keys
    parts: Word  # block mask: index of the block's entries; negative: the whole block is visible
    mask_block_q: int
    mask_block_k: int
    seed: int  # dropout
    threshold: int  # dropout rate in units of 2**-32


class Pages(NamedTuple):
    """The block table of paged keys."""

    size: int  # keys per page; 0: no pages
    table: int  # address of the page numbers
    batch: int  # bytes from one sequence's row of the table to the next


class Queries(NamedTuple):
    """A tile of queries of one head of a sequence, and the range of keys that any of them may attend to."""

    sequence: Any
    b: Any  # index of the sequence
    h: Any
    start: Any  # first query, counted in its sequence
    rows: Any  # number of queries
    lanes: Any  # rows rounded up to whole vectors
    first_key: Any
    end_key: Any  # one past the last


class Keys(NamedTuple):
    """A tile of keys, and how much of it is visible to the current tile of queries."""

    start: Any  # first key, counted in its sequence
    rows: Any  # number of keys
    mask: Any  # address of the first mask entry for the two tiles
    shown: Any  # how much the mask leaves visible: HIDDEN, PARTLY or ALL
    hidden: Any  # first key of the tile that causality or a window hides from some query; rows: none
