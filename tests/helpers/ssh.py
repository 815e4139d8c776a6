"""An SSH server of the tests' own on loopback, with its own host key and one key that may log in.

with ssh_server() as server:
    SSHCluster(["127.0.0.1"] * 3, connect_options=server.connect_options)
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from helpers.ports import free_ports

SSHD = shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))
needs_sshd = pytest.mark.skipif(SSHD is None, reason="needs sshd: apt-get install openssh-server")
_SEPARATION = Path("/run/sshd")  # sshd of root wants this empty directory, which Debian's service makes
_CONFIGURATION = """\
ListenAddress 127.0.0.1:{port}
HostKey {directory}/host
AuthorizedKeysFile {directory}/user.pub
AuthenticationMethods publickey
UsePAM no
StrictModes no
PidFile none
"""
_OF_A_USER = """\
Host {names}
  HostName 127.0.0.1
  Port {port}
  IdentityFile {directory}/user
  UserKnownHostsFile {directory}/known_hosts
"""


class SshServer(NamedTuple):
    """A running sshd, and the files with which one gets in."""

    port: int
    directory: Path

    @property
    def connect_options(self) -> dict[str, Any]:
        """What `SSHCluster(connect_options=)` needs. The user's own keys and settings are left out."""
        return {
            "port": self.port,
            "client_keys": [os.fspath(self.directory / "user")],
            "known_hosts": os.fspath(self.directory / "known_hosts"),
            "config": None,
            "agent_path": None,
        }

    def write_home(self, home: Path, *names: str) -> None:
        """Make a home directory whose ~/.ssh/config gives this server these names too."""
        (home / ".ssh").mkdir(mode=0o700)
        text = _OF_A_USER.format(names=" ".join(names), port=self.port, directory=self.directory)
        (home / ".ssh" / "config").write_text(text)


@contextmanager
def ssh_server() -> Iterator[SshServer]:
    """An sshd that the current user may log into."""
    assert SSHD is not None
    with tempfile.TemporaryDirectory(prefix="sshd-") as name:
        directory, port = Path(name), free_ports(1)[0]
        if os.getuid() == 0:
            _SEPARATION.mkdir(mode=0o755, exist_ok=True)  # stays: other tests may run beside this one
        for key in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / key], check=True)
        public = (directory / "host.pub").read_text()
        (directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}")
        (directory / "sshd_config").write_text(_CONFIGURATION.format(port=port, directory=directory))
        with open(directory / "sshd.log", "wb") as log:
            process = subprocess.Popen([SSHD, "-D", "-e", "-f", directory / "sshd_config"], stderr=log)
        try:
            _wait_for(process, port, directory / "sshd.log")
            yield SshServer(port, directory)
        finally:
            process.terminate()
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"sshd does not listen on port {port}:\n{log.read_text(errors='replace')}")
