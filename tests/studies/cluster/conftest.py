"""A cluster that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def two_hosts() -> Iterator[Any]:
    """Two workers of Dask on this machine, which call themselves node1 and node2."""
    from helpers.clusters import hosts  # here: needs the extra cluster

    with hosts(["node1", "node2"]) as cluster:
        yield cluster
