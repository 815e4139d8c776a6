"""The command while it connects: what it says, and what it leaves, if that fails or is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

pytest.importorskip("distributed")


def command(cluster: str) -> subprocess.Popen[str]:
    """The command in a session of its own, as a terminal has it."""
    words = ["profile", "--engine", "numpy", "--seq-lens", "16", "--rounds", "1", "--no-memory"]
    return subprocess.Popen(
        [sys.executable, "-m", "flashbench", *words, "--cluster", cluster],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("address", "words"),
    [("nonsense://127.0.0.1:1", "unknown address scheme"), ("tls://127.0.0.1:1", "TLS")],
)
def test_an_address_that_cannot_be_reached_is_one_error_and_no_wait(address: str, words: str) -> None:
    with command(address) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    error, _hint = said.splitlines()  # and not what Dask says when it closes a client that never was
    assert error.startswith(f"error: --cluster {address}: ")
    assert words in error


@pytest.mark.grid
@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="workers get Ctrl-C too on Windows")
@pytest.mark.parametrize("after_s", [0.0, 0.3, 1.0, 3.0])
def test_ctrl_c_while_workers_start_leaves_nothing(after_s: float) -> None:
    with command("local:2") as process:
        try:
            while len(workers := psutil.Process(process.pid).children(recursive=True)) < 3:
                time.sleep(0.02)
            time.sleep(after_s)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("interrupted")
    assert psutil.wait_procs(workers, timeout=10)[1] == []
