"""Which worker gets which chunks: equal shares, spread over the sequence, neighbours in the order of sums."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import groupby
from typing import Any

import pytest

pytest.importorskip("dask.array")
pytest.importorskip("distributed")

from helpers.dask_arrays import arrays, lazy
from helpers.dask_cluster import local_cluster

from flashbench.chunks.memory import in_flight_or_default
from flashbench.chunks.parts import spread
from flashbench.integrations.dask.placement import _group, _is_ours, _owners


def keys_of(options: dict[str, Any], heads: int = -1) -> list[Any]:
    """The keys of a forward and a backward pass of 12 chunks of queries and 24 of keys."""
    o, _, dq, dk, dv = lazy(arrays(rows=48, keys=48).chunked(4, 2, heads=heads), **options)[:5]
    graphs = (x.dask for x in (o, dq, dk, dv))
    return list({key for graph in graphs for key in dict(graph) if _is_ours(key)})


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"window": (9, 0)}], ids=str)
@pytest.mark.parametrize("workers", [1, 2, 3, 5, 12, 20])
def test_shares_are_equal_spread_and_contiguous(options: dict[str, Any], workers: int) -> None:
    keys = keys_of(options)
    owners = _owners(keys, workers)
    assert {_group(key) for key in keys} == owners.keys()
    of_chunks = {group: worker for group, worker in owners.items() if "queries" in group}
    for token in {group[0] for group in of_chunks}:
        order = [of_chunks[token, 0, 0, "queries", i] for i in sorted(range(12), key=spread)]
        shares = Counter(order).values()
        assert max(shares) - min(shares) <= 1
        assert len(list(groupby(order))) == min(workers, 12)  # dk and dv come to each worker once


@pytest.mark.parametrize("workers", [2, 3])
def test_with_a_causal_mask_each_worker_has_work_at_each_step(workers: int) -> None:
    keys = keys_of({"causal": True})
    owners = _owners(keys, workers)
    pairs: dict[Any, Counter[int]] = defaultdict(Counter)
    for key in keys:
        if "pair" in key[0]:
            pairs[key[0], key[4]][owners[_group(key)]] += 1
    for counts in pairs.values():
        of_each = [counts[worker] for worker in range(workers)]
        assert max(of_each) - min(of_each) <= 2


def test_a_chunk_of_keys_is_loaded_by_one_of_those_that_need_it() -> None:
    keys = keys_of({"window": (9, 0)})
    owners = _owners(keys, 3)
    need = defaultdict(set)
    for key in keys:
        if "pair" in key[0]:
            token, b, h, _, _ = _group(key)
            need[token, b, h, "keys", key[4]].add(owners[_group(key)])
    loads = {group: worker for group, worker in owners.items() if "keys" in group}
    assert loads.keys() == need.keys()
    assert all(worker in need[group] for group, worker in loads.items())
    assert set(loads.values()) == {0, 1, 2}


def test_chunks_of_heads_begin_with_different_workers() -> None:
    owners = _owners(keys_of({}, heads=2), 2)
    first = {(group[0], group[2]): worker for group, worker in owners.items() if group[3:] == ("queries", 0)}
    assert set(first.values()) == {0, 1}


def test_as_many_chunks_of_keys_are_in_flight_as_the_client_has_workers_and_one_more() -> None:
    assert in_flight_or_default(None) == 2
    with local_cluster(3):
        assert in_flight_or_default(None) == 4
        assert in_flight_or_default(7) == 7
