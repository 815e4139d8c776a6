"""Chains of the backward pass: who does which task of which key/value head next."""

from __future__ import annotations

from flashbench.codegen.atomics import take_ticket
from flashbench.codegen.pointers import at
from flashbench.codegen.steps import step
from flashbench.kernels.call.arrays import sequence_at
from flashbench.kernels.call.tiles import tiles_of


@step
def links_of(call, chain):
    """How many tasks there are in a chain, which is a key/value head of a sequence."""
    return call.sizes.group * tiles_of(call, sequence_at(call, chain // call.sizes.num_kv_heads))


@step
def next_task(call, tickets, chain, slot):
    """(chain, link) of the task to do after one of `chain` (-1 at first); a chain of -1 when none is left.

    tickets[0] counts the chains begun, tickets[1 + chain] the tasks of each.
    """
    chains = call.work.sequence_count * call.sizes.num_kv_heads
    while chain < chains:
        if chain >= 0:
            link = take_ticket(at(tickets, 1 + chain))
            if link < links_of(call, chain):
                return chain, link
        chain = take_ticket(tickets)
    for turn in range(chains):
        chain = (slot + turn) % chains
        link = take_ticket(at(tickets, 1 + chain))
        if link < links_of(call, chain):
            return chain, link
    return -1, 0
