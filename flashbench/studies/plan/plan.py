"""The plan of attention on many hosts: counts, bytes, memory and time, and what they rest on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from flashbench.analysis.sizes import size_word
from flashbench.analysis.words import DIRECTION_WORDS
from flashbench.chunks.memory import in_flight_or_default, worker_memory
from flashbench.errors import ConfigError
from flashbench.problem import AttentionProblem, Direction
from flashbench.results.record import Record
from flashbench.studies.plan.clock import HOPS, Network, Replay, replay
from flashbench.studies.plan.layout import MOST_PAIRS, Layout
from flashbench.studies.plan.rates import Rates

# One computes while the other's k and v travel.
USUAL_CHUNKS_OF_A_HOST = 2
MOST_HOSTS = 512  # so that two chunks a host make a graph
# Of a plan whose chunks nobody chose: larger graphs only where memory asks for them.
USUAL_PAIRS = 2**16
SHORTEST_USUAL_KEYS = 8192  # merging takes as long as the kernel of a pair with a few thousand keys
# Python with Dask, NumPy and Numba, before any chunk.
PROCESS_BYTES = 300 * 1024**2
_FREE = math.inf  # bytes a second of a link that costs nothing


class HostMemory(Record, frozen=True, kw_only=True):
    """Bytes at the peak, as `flashbench.integrations.dask.worker_memory` predicts them."""

    queries: int  # chunks of queries, and their sums
    keys: int  # chunks of keys in flight, and their sums
    task: int  # what the running task adds
    process: int  # before any chunk

    @property
    def total(self) -> int:
        """All of it."""
        return self.queries + self.keys + self.task + self.process


class PassPlan(Record, frozen=True, kw_only=True):
    """One direction. Times are in seconds."""

    direction: Direction
    tasks: int
    pairs: int
    hidden_pairs: int
    moved_bytes: int  # to all hosts
    moved_key_bytes: int  # of these: k and v; the others are sums of dk and dv
    most_moved_key_bytes: int  # if no host kept k and v from one pair to the next
    host_moved_bytes: int  # to the host that receives most
    kernel_s: float  # of the host that computes longest
    merging_s: float  # of that host
    mean_computing_s: float  # over hosts, kernel and merging
    moving_s: float  # of the host that receives most
    scheduling_s: float  # of the one scheduler
    waiting_s: float  # of `seconds`: for transfers that do not hide behind computing
    order_s: float  # of `seconds`: the busiest host waits for other hosts' pairs, and for messages
    seconds: float  # from the first pair to the last
    memory: HostMemory
    memory_bytes: int
    fits: bool | None  # None: no limit was given
    hides_from: int | None  # tokens a host from which computing takes longer than moving; None: see `hides`
    hides: str  # the same in words

    @property
    def computing_s(self) -> float:
        """Of the host that computes longest."""
        return self.kernel_s + self.merging_s


class Plan(Record, frozen=True, kw_only=True):
    """A plan, and what it rests on."""

    problem: AttentionProblem
    hosts: int
    chunk: int  # rows of queries
    chunks: int
    key_chunk: int
    key_chunks: int
    in_flight: int
    network: Network
    memory_limit_bytes: int | None
    rates: Rates
    passes: list[PassPlan]
    notes: list[str]  # what to know or do
    assumptions: list[str]


class Chunks(NamedTuple):
    """Rows of a chunk of queries, and of one of keys."""

    queries: int
    keys: int

    def pairs(self, rows: int) -> int:
        """Pairs of so many rows, hidden ones too."""
        return -(-rows // self.queries) * -(-rows // self.keys)


def usual_chunks(
    problem: AttentionProblem,
    hosts: int,
    *,
    chunk: int | None = None,
    key_chunk: int | None = None,
    in_flight: int | None = None,
    directions: Sequence[Direction] = ("fwd", "bwd"),
    memory_limit_bytes: int | None = None,
) -> Chunks:
    """The chunks that are given. Else two chunks of queries a host, and chunks of keys such that those in
    flight are no more than a host's queries, unless they would be short or many.

    With a limit of memory they are halved until it is enough, if it ever is.
    Raises ConfigError for more hosts than there can be.
    """
    rows = problem.seqlen_q
    if hosts > min(MOST_HOSTS, rows):
        raise ConfigError(f"--hosts takes up to {min(MOST_HOSTS, rows)} with {rows} tokens, not {hosts}")
    most = -(-rows // min(rows, USUAL_CHUNKS_OF_A_HOST * hosts))
    found = Chunks(min(chunk or most, rows), min(key_chunk or chunk or most, rows))
    limit = memory_limit_bytes

    if key_chunk is None and chunk is None:
        flying = in_flight_or_default(in_flight, hosts)
        half = found._replace(keys=found.keys // 2)
        while (
            found.keys * flying * hosts > rows
            and half.keys >= SHORTEST_USUAL_KEYS
            and half.pairs(rows) <= USUAL_PAIRS
        ):
            found, half = half, half._replace(keys=half.keys // 2)
    if limit is None:
        return found
    smaller: Chunks | None = found
    while smaller is not None:
        if _most_memory(problem, hosts, smaller, in_flight, directions) <= limit:
            return smaller
        halves = [smaller._replace(keys=-(-smaller.keys // 2))] * (key_chunk is None)
        halves += [smaller._replace(queries=-(-smaller.queries // 2))] * (chunk is None)
        halves = [each for each in halves if each != smaller and each.pairs(rows) <= MOST_PAIRS]
        smaller = min(
            halves,
            key=lambda each: _most_memory(problem, hosts, each, in_flight, directions),
            default=None,
        )
    return found


def make_plan(
    problem: AttentionProblem,
    *,
    hosts: int,
    chunks: Chunks,
    network: Network,
    rates: Rates,
    directions: Sequence[Direction] = ("fwd", "bwd"),
    in_flight: int | None = None,
    memory_limit_bytes: int | None = None,
) -> Plan:
    """The plan of this problem, with seqlen_q = seqlen_k, on so many hosts. rates: of each of the directions.

    Raises ConfigError for more pairs than a graph can have, AttentionError for a wrong `in_flight`.
    """
    layout = Layout(problem, hosts, *chunks, in_flight)
    passes = [
        _pass(layout, direction, rates, network, memory_limit_bytes, lse="bwd" in directions)
        for direction in directions
    ]
    return Plan(
        problem=problem,
        hosts=hosts,
        chunk=layout.chunk,
        chunks=len(layout.places),
        key_chunk=layout.key_chunk,
        key_chunks=len(layout.key_places),
        in_flight=layout.in_flight,
        network=network,
        memory_limit_bytes=memory_limit_bytes,
        rates=rates,
        passes=passes,
        notes=_notes(layout, passes, memory_limit_bytes),
        assumptions=_assumptions(passes, rates, network),
    )


def host_memory(
    problem: AttentionProblem, hosts: int, chunks: Chunks, in_flight: int | None, direction: Direction
) -> HostMemory:
    """What one host holds at the peak of this direction."""
    assert direction != "fwd_bwd"
    found = worker_memory(
        problem,
        direction,
        query_chunk=chunks.queries,
        key_chunk=chunks.keys,
        workers=hosts,
        in_flight=in_flight,
    )
    return HostMemory(queries=found.queries, keys=found.keys, task=found.task, process=PROCESS_BYTES)


def _most_memory(
    problem: AttentionProblem,
    hosts: int,
    chunks: Chunks,
    in_flight: int | None,
    directions: Sequence[Direction],
) -> int:
    return max(host_memory(problem, hosts, chunks, in_flight, each).total for each in directions)


def _pass(
    layout: Layout, direction: Direction, rates: Rates, network: Network, limit: int | None, *, lse: bool
) -> PassPlan:
    rate = rates.of(direction)
    run = replay(layout, direction, rate, network)
    unhindered = Network(link=_FREE, latency_s=network.latency_s, task_s=network.task_s)
    received, tasks = layout.received(direction), layout.tasks(direction, lse=lse)
    computing = [sum(of_host) for of_host in zip(run.kernel, run.merging, strict=True)]
    longest = max(range(layout.hosts), key=computing.__getitem__)
    chunks = Chunks(layout.chunk, layout.key_chunk)
    memory = host_memory(layout.problem, layout.hosts, chunks, layout.in_flight, direction)
    hides_from, hides = _hides(layout, run, received, network)
    without_transfers = replay(layout, direction, rate, unhindered).seconds
    return PassPlan(
        direction=direction,
        tasks=tasks,
        pairs=len(layout.pairs),
        hidden_pairs=layout.hidden,
        moved_bytes=sum(received),
        moved_key_bytes=sum(move.keys for move in layout.moves(direction)),
        most_moved_key_bytes=layout.most_key_bytes,
        host_moved_bytes=max(received),
        kernel_s=run.kernel[longest],
        merging_s=run.merging[longest],
        mean_computing_s=sum(computing) / layout.hosts,
        moving_s=max(received) / network.link,
        scheduling_s=tasks * network.task_s,
        waiting_s=max(0.0, run.seconds - without_transfers),
        order_s=max(0.0, min(run.seconds, without_transfers) - computing[longest]),
        seconds=max(run.seconds, tasks * network.task_s),
        memory=memory,
        memory_bytes=memory.total,
        fits=None if limit is None else memory.total <= limit,
        hides_from=hides_from,
        hides=hides,
    )


def _hides(layout: Layout, run: Replay, received: Sequence[int], network: Network) -> tuple[int | None, str]:
    """Tokens a host from which the host that receives most computes longer than it receives.

    With s times the tokens in as many chunks, a host's kernels take s**2 times as long, its merging and its
    transfers s times.
    """
    if not max(received):
        return None, "nothing is moved"
    host = max(range(layout.hosts), key=received.__getitem__)
    kernel, merging, moving = run.kernel[host], run.merging[host], received[host] / network.link
    if layout.problem.window_left is not None:
        share = 100 * moving / (kernel + merging)
        return None, f"with a window both grow with the tokens: moving takes {share:.3g} % of computing"
    scale = max(0.0, (moving - merging) / kernel)
    tokens = max(1, math.ceil(scale * layout.problem.seqlen_q / layout.hosts))
    words = f"from {tokens:,} {'token' if tokens == 1 else 'tokens'} a host on"
    if layout.most_chunks == 1:
        words += ", if it had two chunks of queries or more"
    return tokens, words


def _assumptions(passes: Sequence[PassPlan], rates: Rates, network: Network) -> list[str]:
    most = passes[0].most_moved_key_bytes
    hops = " and ".join(f"{HOPS[each.direction]} {DIRECTION_WORDS[each.direction]}" for each in passes)
    lines = [
        f"Rates: {rates.source}. Every host is as fast, and longer chunks are computed at the same rate.",
        f"Times beside the kernel: {rates.merge_source}.",
        "Each host computes equally many chunks of queries, spread over the sequence, where the plugin "
        "flashbench.integrations.dask.Placement puts them. Without it Dask moves more.",
        "Chunks are loaded where they are used, from files that every host reads, in no time; results are "
        "stored in no time. A chunk of keys is loaded by one host, and travels once to each other that needs "
        "it.",
        "Every 2 s Dask drops chunks of keys that no pair of a host needs just then, and sends them again: "
        f"at most {size_word(most)} of keys move in each direction.",
        "A host receives one chunk after the other at the rate of --link, takes none of its cores for that, "
        "and sends without limit.",
        f"A message of Dask takes {1e3 * network.latency_s:g} ms ({hops} from a pair to the next), and its "
        f"scheduler {1e3 * network.task_s:g} ms a task.",
        f"Memory is the bound of worker_memory and {PROCESS_BYTES // 1024**2} MiB of the process. Each host "
        "has one worker of one thread, whose kernels use every core.",
    ]
    if any(each.direction == "bwd" for each in passes):
        lines.insert(4, "The sums of dk and dv travel once to each host that adds to them.")
    return lines


def _notes(layout: Layout, passes: Sequence[PassPlan], limit: int | None) -> list[str]:
    notes = []
    if layout.most_chunks == 1 and layout.hosts > 1:
        notes.append(
            "With one chunk of queries a host nothing hides: Dask fetches what a pair needs when the pair "
            "before it is done. Give a smaller --chunk."
        )
    longest = max(passes, key=lambda each: each.computing_s)
    share = longest.computing_s / longest.mean_computing_s
    if share >= 1.05:
        why = "causal hides more of the first chunks of queries" if layout.problem.causal else "chunks differ"
        notes.append(
            f"The busiest host computes {share:.2f} times the mean, and the others wait for it: {why}. "
            "Smaller chunks share it out better."
        )
    if len(layout.places) < layout.hosts:
        notes.append(
            f"{layout.hosts - len(layout.places)} of {layout.hosts} hosts have no chunk of queries: give a "
            "smaller --chunk."
        )
    merging = max(each.merging_s / each.computing_s for each in passes)
    if merging > 0.1:
        notes.append(
            f"Merging takes {100 * merging:.0f} % of computing: o is merged, and gradients added, once for "
            "each chunk of keys. A larger --key-chunk merges less often, and takes more memory."
        )
    if any(each.scheduling_s > each.computing_s for each in passes):
        notes.append("Dask's scheduler takes longer than the hosts compute: give larger chunks.")
    for each in passes:
        if each.order_s > 0.1 * each.seconds and each.direction == "bwd":
            notes.append(
                f"Backward: hosts wait for each other {100 * each.order_s / each.seconds:.0f} % of the time, "
                "because a sum of dk and dv goes through the chunks of queries in turn. A smaller "
                "--key-chunk lets all hosts begin sooner."
            )
        if each.waiting_s > 0.1 * each.seconds and layout.most_chunks > 1:
            notes.append(
                f"Transfers that nothing hides take {100 * each.waiting_s / each.seconds:.0f} % of the "
                f"{DIRECTION_WORDS[each.direction]}: larger chunks, or a higher --in-flight, hide more."
            )
    if limit is not None and not all(each.fits for each in passes):
        notes.append(
            "The memory of a host is not enough: more hosts hold less each, and smaller chunks or a lower "
            "--in-flight take less."
        )
    return notes
