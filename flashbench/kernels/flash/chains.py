"""The order of tasks in the backward pass. A chain: all tasks that add to dk and dv of one key/value head."""

from __future__ import annotations

from flashbench.codegen.atomics import take_ticket
from flashbench.codegen.pointers import at
from flashbench.codegen.steps import step
from flashbench.kernels.call.arrays import sequence_at
from flashbench.kernels.call.tiles import tiles_of


@step
def links_of(call, chain):
    """The number of tasks of a chain. Chain number: sequence * num_kv_heads + key/value head."""
    return call.sizes.group * tiles_of(call, sequence_at(call, chain // call.sizes.num_kv_heads))


@step
def next_task(call, tickets, chain, slot):
    """(chain, link) of the thread's next task; (-1, 0) if none is left.

    chain: the thread's last chain, -1 at first. The thread stays on its chain, then begins a new one, then
    helps with another thread's. tickets[0] counts the chains begun, tickets[1 + chain] the tasks taken of it.
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
