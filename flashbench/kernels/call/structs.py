"""What a call passes to its kernels, by name: arrays, sizes, features, shared counters.

A call is a struct of structs that Python writes into one table (codegen/structs.py); a kernel gets its
address. At the end, the values that kernels make for themselves: the tiles of queries and keys at work.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from flashbench.codegen.structs import Number, Storage, Word


class Array(NamedTuple):
    """An array (batch, heads, rows, columns) of the storage type, the elements of a row side by side."""

    at: Storage
    batch: int  # bytes from one to the next
    head: int  # bytes
    row: int  # elements


class Numbers(NamedTuple):
    """The same of the accumulator type: lse, sums, gradients while they grow."""

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
    """What the threads of a call share."""

    tasks: int
    sequences: int  # address of a `Sequence` each
    sequence_count: int
    moves: int  # address of a `Move` each: what to gather first
    move_count: int
    tickets: Word  # counters, zero at first: who does what
    finite: Word  # a note for each key/value head of a sequence: 0 not looked yet, 1 finite, 2 not
    progress: Word  # the backward pass: for each task, the keys it is past
    scratch: int  # address of the first thread's
    scratch_stride: int  # bytes to the next thread's


class ForwardGathers(NamedTuple):
    """1: a task works on a copy of its tile of these rows, in its scratch; 0: on the rows as they lie."""

    sums: int  # o


class Gathers(NamedTuple):
    """The same of the backward pass."""

    sums: int = 0  # dq
    q: int = 0
    do: int = 0


class Sequence(NamedTuple):
    """One sequence of the batch: where it lies in the arrays, and what its tasks are numbered from."""

    batch: int  # its place along the arrays' first axis
    first_query: int
    first_key: int
    seqlen_q: int
    seqlen_k: int
    diagonal: int  # the last key that query 0 sees, when causal
    tiles_before: int  # tiles of one head, of all sequences before it


class MoveSizes(NamedTuple):
    batch: int
    heads: int
    rows: int
    columns: int


class Move(NamedTuple):
    """An array whose rows are copied elsewhere before tiles read them."""

    source: Array
    target: Array
    sizes: MoveSizes


class Features(NamedTuple):
    """The optional features: switches, numbers and arrays. Kernels look at them tile by tile, not score by
    score, so that one machine code serves every combination and a feature that is off costs a branch.

    Strides are in bytes by batch and head, in elements by row and key.
    """

    q_factor: float  # times q when it is packed: scores come in units of log2, or of the softcap
    scale: float  # softmax_scale
    cap: float  # softcap * log2(e)
    keep_factor: float  # 1 / (1 - dropout)
    left: int  # keys that a query sees before its own
    right: int  # and after it
    softcap: int  # 1: on, as of the next two
    alibi: int
    sinks: int
    mask: int  # NO_MASK, BOOL_MASK, FLOAT_MASK or BLOCK_MASK
    dropout: int
    slopes: Number
    slopes_batch: int
    slopes_head: int
    sink_logits: Number
    sinks_head: int
    mask_at: int
    mask_batch: int  # of the entries; of a block mask, of `starts`
    mask_head: int
    mask_row: int
    mask_key: int
    mask_size: int  # bytes of an entry
    starts: int  # of a block mask: where each row of blocks begins in the lists below
    columns: Word
    parts: Word
    mask_block_q: int
    mask_block_k: int
    seed: int
    threshold: int


class Pages(NamedTuple):
    """The block table of paged keys."""

    size: int  # keys of a page; 0: keys are not in pages
    table: int  # address of page numbers
    batch: int  # bytes from one sequence's to the next


class Queries(NamedTuple):
    """A tile of queries of one head of a sequence, and the keys that they may see."""

    sequence: Any
    b: Any  # the sequence's number
    h: Any
    start: Any
    rows: Any
    lanes: Any  # rows, up to whole vectors
    first_key: Any
    end_key: Any


class Keys(NamedTuple):
    """A tile of keys, as a tile of queries sees it."""

    start: Any
    rows: Any
    mask: Any  # address of the mask's entries for the two tiles
    shown: Any  # how much of the tile the mask shows: HIDDEN, PARTLY or ALL
    hidden: Any  # the first key that causality or a window hides from some query; rows: none
