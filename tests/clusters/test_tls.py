"""The page's certificate, settings and commands: a cluster with TLS, and who is kept out."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.cluster_page import block
from helpers.ports import free_ports
from helpers.tls import make_certificate, needs_openssl

pytest.importorskip("distributed")

from distributed import Client, Security

pytestmark = needs_openssl


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the page's certificate, key and settings."""
    made = tmp_path_factory.mktemp("home")
    make_certificate(made)
    return made


@contextmanager
def cluster(home: Path) -> Iterator[int]:
    """The page's scheduler and worker, with the page's settings, on loopback; the scheduler's port."""
    (port,) = free_ports(1)
    text = (
        block("sh", "dask scheduler --protocol tls")
        .replace("ib0", "lo")
        .replace("node1:8786", f"127.0.0.1:{port}")
    )
    commands = [shlex.split(line) for line in text.replace("8786", str(port)).splitlines()]
    environment = os.environ | {"DASK_CONFIG": os.fspath(home / "tls.yaml")}
    processes = []
    try:
        for program, *rest in commands:
            assert program == "dask"
            with open(home / f"{rest[0]}.log", "wb") as log:
                process = subprocess.Popen([sys.executable, "-m", "dask", *rest], env=environment, stderr=log)
            processes.append(process)
        yield port
    finally:
        for process in processes:
            process.terminate()
            process.wait(timeout=30)


def as_the_page_says(home: Path) -> Security:
    certificate, key = os.fspath(home / "dask.crt"), os.fspath(home / "dask.key")
    return Security(
        require_encryption=True, tls_ca_file=certificate, tls_client_cert=certificate, tls_client_key=key
    )


def test_only_who_has_the_key_reaches_a_cluster_with_tls(home: Path, tmp_path: Path) -> None:
    assert (home / "dask.key").stat().st_mode & 0o077 == 0
    another = tmp_path / "another"
    another.mkdir()
    make_certificate(another)
    with cluster(home) as port:
        address = f"tls://127.0.0.1:{port}"
        with Client(address, security=as_the_page_says(home), timeout=30) as client:
            client.wait_for_workers(1, timeout=60)
            assert client.submit(sum, [1, 2], resources={"bench": 1}).result(timeout=30) == 3
            (worker,) = client.scheduler_info()["workers"]
            assert worker.startswith("tls://127.0.0.1:")
        with pytest.raises(OSError, match=r"Timed out|certificate"):
            Client(address, security=as_the_page_says(another), timeout=3)
        with pytest.raises(OSError, match=r"Timed out|closed"):
            Client(f"tcp://127.0.0.1:{port}", timeout=3)


@pytest.mark.grid
def test_a_program_reads_the_settings_itself(home: Path) -> None:
    program = (
        "import sys; from distributed import Client; print(Client(sys.argv[1]).submit(sum, [1, 2]).result())"
    )
    certificate, key = os.fspath(home / "dask.crt"), os.fspath(home / "dask.key")
    by_environment = {
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "true",
        "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": certificate,
        "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT": certificate,
        "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY": key,
    }
    with cluster(home) as port:
        for settings in ({"DASK_CONFIG": os.fspath(home / "tls.yaml")}, by_environment):
            command = [sys.executable, "-c", program, f"tls://127.0.0.1:{port}"]
            done = subprocess.run(
                command, env=os.environ | settings, capture_output=True, text=True, timeout=60
            )
            assert done.stdout == "3\n", done.stderr
