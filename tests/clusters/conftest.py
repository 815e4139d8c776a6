"""Tests here import dask_jobqueue, which replaces the handler of Ctrl-C, for all other tests too."""

from __future__ import annotations

from contextlib import suppress

from flashbench.studies.cluster.slurm import keeping_interrupts

with keeping_interrupts(), suppress(ModuleNotFoundError):
    import dask_jobqueue  # noqa: F401
