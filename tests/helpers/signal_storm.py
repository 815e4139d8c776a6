"""Calls during many signals whose handlers raise: `python signal_storm.py pool|openmp CALLS`.

Three interval timers fire at random moments. Their handlers raise up to two exceptions per call; the second
often comes while the first leaves the call. It prints the outcomes of the calls. Only correct results and
deadlines are allowed, and no thread may be inside a kernel once its call is over.
"""

from __future__ import annotations

import collections
import contextlib
import json
import random
import signal
import sys
from typing import Any

import numpy as np

from flashbench.functional import attention
from flashbench.threads import pool

TIMERS = {
    signal.SIGALRM: signal.ITIMER_REAL,
    signal.SIGVTALRM: signal.ITIMER_VIRTUAL,
    signal.SIGPROF: signal.ITIMER_PROF,
}


class Deadline(TimeoutError):  # noqa: N818 - not an error. It is an OSError, as those of handlers often are
    pass


helpers: Any = None  # the pool or team whose threads work on the calls
armed = 0  # exceptions that may still get out of this call
rings = raised = 0


def ring(*_: object) -> None:
    global armed, rings, raised
    rings += 1
    if armed:
        armed -= 1
        raised += 1
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 1e-4))  # the next, while this one leaves
        raise Deadline


def attempt(x: np.ndarray, want: np.ndarray, threads: int) -> str:
    global armed
    armed = random.choice((1, 2))
    try:
        q = x.copy()  # freed as soon as the call is left
        o = attention(q, q, q, causal=True, num_threads=threads)
        armed = 0
    except Deadline:
        return "a thread outlives its call" if helpers.threads_inside else "deadline"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "right" if np.array_equal(o, want) else "wrong"


def main(kind: str, calls: int) -> None:
    global armed, helpers
    random.seed(0)
    threads = 4
    team: Any = contextlib.nullcontext()
    helpers = pool.the_pool()
    if kind == "openmp":
        import torch

        from flashbench.integrations.torch.runtime import torch_team

        torch.set_num_threads(threads)
        helpers = torch_team()
        assert helpers is not None
        team = pool.Lent(helpers, threads)
    seen: collections.Counter[str] = collections.Counter()
    x = np.random.default_rng(0).standard_normal((1, 4, 192, 64))
    with team:
        want = attention(x, x, x, causal=True, num_threads=threads)
        for number in TIMERS:
            signal.signal(number, ring)
        for _ in range(calls):
            for timer in TIMERS.values():
                signal.setitimer(timer, random.uniform(2e-5, 4e-3), 1e-3)
            try:
                outcome = attempt(x, want, threads)
            except Deadline:  # the second, on its way out of the first
                outcome = "a thread outlives its call" if helpers.threads_inside else "two deadlines"
            armed = 0
            seen[outcome] += 1
        for number in TIMERS:
            signal.signal(number, signal.SIG_IGN)
    print(json.dumps({"calls": calls, "signals": rings, "exceptions": raised, **seen}))


main(sys.argv[1], int(sys.argv[2]))
