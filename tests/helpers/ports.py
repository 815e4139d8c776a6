"""Ports of loopback for servers that the tests start."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import ExitStack

import psutil


def free_ports(count: int) -> list[int]:
    """That many different ports on which nothing listens now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def hosts_listened_on(processes: Iterable[psutil.Process]) -> set[str]:
    """The addresses on which these processes wait for connections, such as {"127.0.0.1"}."""
    connections = (one for process in processes for one in process.net_connections())
    return {one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN}
