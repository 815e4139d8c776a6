"""SSHCluster on an SSH server of this machine: by its own arguments, and by the script of the page."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest
from helpers.cluster_page import block
from helpers.ports import free_ports, hosts_listened_on
from helpers.ssh import SshServer, needs_sshd, ssh_server
from helpers.tls import needs_openssl, tls_settings

pytest.importorskip("asyncssh")
pytest.importorskip("distributed")

from distributed import Client, SSHCluster

pytestmark = needs_sshd


@pytest.fixture(scope="module")
def server() -> Iterator[SshServer]:
    with ssh_server() as started:
        yield started


@pytest.mark.parametrize("protocol", ["tcp", pytest.param("tls", marks=[pytest.mark.grid, needs_openssl])])
def test_a_cluster_by_ssh_runs_a_task(server: SshServer, protocol: str, tmp_path: Path) -> None:
    options = {"interface": "lo", "dashboard_address": "127.0.0.1:0", "protocol": f"{protocol}://"}
    with (
        tls_settings(tmp_path) if protocol == "tls" else nullcontext(),
        SSHCluster(
            ["127.0.0.1"] * 3,
            connect_options=server.connect_options,
            scheduler_options={"port": 0, **options},
            worker_options={"nthreads": 1, "resources": {"bench": 1}, **options},
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(2, timeout=60)
        assert cluster.scheduler_address.startswith(f"{protocol}://127.0.0.1:")
        workers = [psutil.Process(pid) for pid in client.run(os.getpid).values()]
        assert client.submit(os.getpid, resources={"bench": 1}).result(timeout=30) in {w.pid for w in workers}
    assert psutil.wait_procs(workers, timeout=10)[1] == []


def test_an_unknown_host_key_is_refused(server: SshServer, tmp_path: Path) -> None:
    (tmp_path / "known_hosts").touch()
    options = server.connect_options | {"known_hosts": os.fspath(tmp_path / "known_hosts")}
    with pytest.raises(Exception, match="Host key is not trusted"):
        SSHCluster(["127.0.0.1"] * 2, connect_options=options, scheduler_options={"port": 0})


@pytest.mark.grid
def test_the_script_of_the_page_starts_a_cluster_that_others_use(server: SshServer, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    server.write_home(tmp_path, "node1", "node2")
    (tmp_path / "ssh_cluster.py").write_text(block("python", "SSHCluster(").replace("8786", str(port)))
    command = [sys.executable, tmp_path / "ssh_cluster.py", "lo", "node1", "node2"]
    with subprocess.Popen(
        command,
        env=os.environ | {"HOME": os.fspath(tmp_path)},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as script:
        assert script.stdin is not None
        assert script.stdout is not None
        try:
            assert script.stdout.readline() == f"--cluster tcp://127.0.0.1:{port}\n"
            with Client(f"tcp://127.0.0.1:{port}") as client:
                client.wait_for_workers(2, timeout=60)
                assert client.submit(sum, [1, 2], resources={"bench": 1}).result(timeout=30) == 3
                running = [psutil.Process(pid) for pid in client.run(os.getpid).values()]
                running += [parent for worker in running if (parent := worker.parent())]  # nannies
                running.append(psutil.Process(client.run_on_scheduler(os.getpid)))
                assert hosts_listened_on(running) == {"127.0.0.1"}
            script.communicate("\n", timeout=30)
            assert script.returncode == 0
            assert psutil.wait_procs(running, timeout=10)[1] == []
        finally:
            script.kill()
