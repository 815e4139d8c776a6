"""The order of tasks in the backward pass. A chain: all tasks that add to dk and dv of one key/value head.

Each task publishes its progress: the keys that it has passed. A finished task has passed all keys, but a task
before it may be slower, if it has more keys. Then the next task has to look further back: the counters of a
chain are neighbours in memory.
"""

from __future__ import annotations

from flashbench.codegen.atomics import look, publish, take_ticket, wait_for
from flashbench.codegen.pointers import at
from flashbench.codegen.steps import step
from flashbench.kernels.call.arrays import sequence_at
from flashbench.kernels.call.tiles import tiles_of

# Progress of a finished task, more than any number of keys: the task before may be at work; none before is.
FINISHED, ALL_FINISHED = 2**61, 2**62


@step
def wait_for_turn(before, keys):
    """Wait until every task before this one has passed these keys. Returns the counter to wait for next time.

    before: the progress counter of the task before, or that a call for fewer keys has returned.
    """
    wait_for(before, keys)
    while look(before) == FINISHED:
        before = at(before, -1)
        wait_for(before, keys)
    return before


@step
def publish_end(done, before, link):
    """Publish that a task is finished. before: what its last `wait_for_turn` returned."""
    is_all = link == 0 or look(before) == ALL_FINISHED
    publish(done, ALL_FINISHED if is_all else FINISHED)


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
