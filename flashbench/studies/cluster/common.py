"""What the ways to reach a cluster have in common."""

from __future__ import annotations

from collections.abc import Callable

LOOPBACK = "127.0.0.1"
# Dask has an HTTP server even without a dashboard: on a port that is free, and on loopback alone.
NO_DASHBOARD = {"dashboard": False, "dashboard_address": f"{LOOPBACK}:0"}

# From the workers that are present, and were at most: what more will come, in words; None: nobody.
Coming = Callable[[int, int], str | None]


def nobody(present: int, most: int) -> str | None:
    """Who starts the workers is not our matter."""
    return None
