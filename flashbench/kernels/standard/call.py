"""What a call of standard attention passes to its kernels, and where its scores lie.

s and p: a slab of (seqlen_q, columns) for each sequence and head, columns being its keys with their padding.
"""

from __future__ import annotations

from typing import NamedTuple

from flashbench.codegen.pointers import at
from flashbench.codegen.steps import step
from flashbench.codegen.structs import CELL_BYTES, Number, element
from flashbench.kernels.call.arrays import rows_at
from flashbench.kernels.call.structs import Array, Features, Numbers, Sizes, Work


class Scores(NamedTuple):
    """The slabs of all sequences. tanh and dropped are p itself where they are not kept."""

    p: Number
    tanh: Number  # of scores, for softcap's gradient
    dropped: Number  # p after dropout: what o is made of
    dp: Number


class Stages(NamedTuple):
    """What the stages of a call need to know."""

    hides: int  # whether any pair is hidden
    longest: int  # the most rows of q, or of padded k, of a sequence: the larger
    natural: int  # whether scores are in natural units, not in units of log2
    factor: float  # of q k^T, so that it is in these units, or the softcap's
    softcap: float
    packed: int  # address of room for packed keys, of packed_stride bytes a thread; 0: there is room in o
    packed_stride: int
    sink_shares: int  # address of float64 room for what each task of SCORE_GRADIENT adds to a sink's gradient
    mask_step: int  # of dmask along the keys, 0 or 1; -1: it is not asked for


class StandardCall(NamedTuple):
    """A forward call leaves the gradients' arrays empty, a backward one reads no o.

    dv: first room for packed v, a head's rows without gaps. Work's tickets: one a stage. Work's finite: of
    the forward pass for each v; of the backward pass for each q, then each do, then each k.
    """

    q: Array
    k: Array
    v: Array
    o: Array
    lse: Numbers
    scores: Scores
    do: Array
    dq: Array
    dk: Array
    dv: Array
    dmask: Numbers
    stages: Stages
    sizes: Sizes
    work: Work
    features: Features


class SlabSequence(NamedTuple):
    """A `Sequence`, and where its scores lie."""

    batch: int
    first_query: int
    first_key: int
    seqlen_q: int
    seqlen_k: int
    diagonal: int
    tiles_before: int  # 0: tasks are not numbered by it
    columns: int
    slab: int  # where its first slab begins, in numbers


_SEQUENCE_BYTES = CELL_BYTES * len(SlabSequence._fields)


@step
def slab_sequence_at(call, b):
    return element(SlabSequence, call, call.work.sequences + b * _SEQUENCE_BYTES)


@step
def query_rows(array, sequence, h, first):
    """One head's rows of a sequence, from its query `first` on."""
    return rows_at(array, sequence.batch, h, sequence.first_query + first)


@step
def key_rows(array, sequence, h, first):
    """One head's rows of a sequence, from its key `first` on."""
    return rows_at(array, sequence.batch, h, sequence.first_key + first)


@step
def slab(scores, sequence, h):
    """The scores, or what is like them, of one head of a sequence."""
    return at(scores, sequence.slab + h * (sequence.seqlen_q * sequence.columns))
