"""Chains of the backward pass: who does which task of which key/value head next."""

from __future__ import annotations

from numba import njit

from flashbench.codegen.atomics import take_ticket
from flashbench.codegen.pointers import at
from flashbench.kernels.call.features import SEQLEN_Q, tiles_of


@njit(nogil=True)
def links_of(sequences, chain, num_heads, num_kv_heads, block_q, features):
    """How many tasks there are in a chain, which is a key/value head of a sequence."""
    tiles = tiles_of(sequences[chain // num_kv_heads, SEQLEN_Q], block_q, features)
    return num_heads // num_kv_heads * tiles


@njit(nogil=True)
def next_task(tickets, chain, sequences, num_heads, num_kv_heads, block_q, features, slot):
    """(chain, link) of the task to do after one of `chain` (-1 at first); a chain of -1 when none is left.

    tickets[0] counts the chains begun, tickets[1 + chain] the tasks of each.
    """
    chains = len(sequences) * num_kv_heads
    while chain < chains:
        if chain >= 0:
            link = take_ticket(at(tickets, 1 + chain))
            if link < links_of(sequences, chain, num_heads, num_kv_heads, block_q, features):
                return chain, link
        chain = take_ticket(tickets)
    for step in range(chains):
        chain = (slot + step) % chains
        link = take_ticket(at(tickets, 1 + chain))
        if link < links_of(sequences, chain, num_heads, num_kv_heads, block_q, features):
            return chain, link
    return -1, 0
