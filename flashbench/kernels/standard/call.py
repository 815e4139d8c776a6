"""The arguments of a standard attention call, and the places of its scores in memory.

s and p: one slab of (seqlen_q, columns) per sequence and head. columns: its keys with their padding.
"""

from __future__ import annotations

from typing import NamedTuple

from flashbench.codegen.pointers import at
from flashbench.codegen.steps import step
from flashbench.codegen.structs import CELL_BYTES, Number, element
from flashbench.kernels.call.arrays import rows_at
from flashbench.kernels.call.structs import Array, Features, Numbers, Sizes, Work
from flashbench.kernels.standard.access import ROOMS


class Scores(NamedTuple):
    """The slabs of all sequences. tanh and dropped are p itself if they are not kept."""

    p: Number
    tanh: Number  # tanh of the scores, for softcap's gradient
    dropped: Number  # p after dropout: o = dropped @ v
    dp: Number


class Stages(NamedTuple):
    """Parameters of the stages."""

    hides: int  # 1: some pair is hidden
    longest: int  # the largest number of queries or padded keys in a sequence
    natural: int = 0  # 1: scores in natural units; 0: in log2 units
    factor: float = 0.0  # multiplies q k^T: gives these units, or units of the softcap
    softcap: float = 0.0
    packs_apart: int = 0  # 1: pack keys into scratch; 0: into o, which is written only later
    sink_shares: int = 0  # address of float64 numbers: one sink gradient share per task of SCORE_GRADIENT
    mask_step: int = -1  # stride of dmask along the keys, 0 or 1; -1: dmask is not requested


class StandardCall(NamedTuple):
    """The arguments of one call, shared by its threads. A forward call has no gradients, a backward no o.

    dv: where storage is the accumulator, it holds packed v before it is written, and its rows of a head are
    contiguous. work.tickets: one counter per
    stage. work.finite: flags of each v in the forward pass; of each q, each do, each k in the backward pass.
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
    scratch: ROOMS.cells  # type: ignore[name-defined]
    sizes: Sizes
    work: Work
    features: Features


class SlabSequence(NamedTuple):
    """A `Sequence`, and the place of its scores."""

    batch: int
    first_query: int
    first_key: int
    seqlen_q: int
    seqlen_k: int
    diagonal: int
    tiles_before: int  # unused here: 0
    columns: int
    slab: int  # offset of its first slab, in numbers


_SEQUENCE_BYTES = CELL_BYTES * len(SlabSequence._fields)


@step
def slab_sequence_at(call, b):
    return element(SlabSequence, call, call.work.sequences + b * _SEQUENCE_BYTES)


@step
def query_rows(array, sequence, h, first):
    """The rows of one head of a sequence, from query `first` on."""
    return rows_at(array, sequence.batch, h, sequence.first_query + first)


@step
def key_rows(array, sequence, h, first):
    """The rows of one head of a sequence, from key `first` on."""
    return rows_at(array, sequence.batch, h, sequence.first_key + first)


@step
def slab(scores, sequence, h):
    """The slab of one head of a sequence, in one array of `Scores`."""
    return at(scores, sequence.slab + h * (sequence.seqlen_q * sequence.columns))
