"""Runs a study on the hosts of a Dask cluster.

A study is cut into parts, so that no ratio crosses hosts: a part has all that is measured at one length, or
of one model. A host measures one part at a time, in a process of its own that runs the ordinary study. So a
part's results are those of `flashbench` on that host.
"""

from __future__ import annotations

from flashbench.studies.cluster.run import run_on_cluster

__all__ = ["run_on_cluster"]
