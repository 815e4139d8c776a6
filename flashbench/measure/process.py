"""What a worker process runs with: interpreter, thread settings, and the resulting thread pools."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import version
from typing import Any

import threadpoolctl

from flashbench.measure.machine import installed_libraries
from flashbench.system.affinity import BINDING_VARIABLES

# Each library reads its own variable. The parent sets them before the child imports anything.
THREAD_VARIABLES = (
    "NUMBA_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
# We do not set these. The record has them, because they decide how a pool waits and where its threads run.
WAITING_VARIABLES = (
    *BINDING_VARIABLES,
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "KMP_BLOCKTIME",
    "NUMBA_CPU_NAME",
    "FLASHBENCH_PATH",
    "FLASHBENCH_HF_KERNEL",
    "OPENBLAS_CORETYPE",
    "LD_PRELOAD",
)


def describe_process() -> dict[str, Any]:
    """The fields of `results.record.Process`, for this process."""
    return {
        "python": sys.executable,
        "python_version": platform.python_version(),
        "flashbench_version": version("flashbench"),
        "environment": {
            name: os.environ[name] for name in (*THREAD_VARIABLES, *WAITING_VARIABLES) if name in os.environ
        },
        "threadpools": [
            {
                "user_api": pool["user_api"],
                "internal_api": pool["internal_api"],
                "num_threads": pool["num_threads"],
                "version": pool.get("version"),
                "threading_layer": pool.get("threading_layer"),
                "architecture": pool.get("architecture"),
            }
            for pool in threadpoolctl.threadpool_info()
        ],
        "libraries": installed_libraries(),
    }
