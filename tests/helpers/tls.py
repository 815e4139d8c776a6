"""The page's certificate and Dask's settings for it, in a directory of the tests."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from helpers.cluster_page import block

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs openssl: apt-get install openssl"
)


def make_certificate(directory: Path) -> Path:
    """Write dask.crt, dask.key, and the settings that name them, whose path is the result."""
    command = shlex.split(block("sh", "openssl req"))
    subprocess.run(command, cwd=directory, check=True, capture_output=True)
    settings = directory / "tls.yaml"
    settings.write_text(block("yaml", "require-encryption").replace("/home/me", os.fspath(directory)))
    return settings


@contextmanager
def tls_settings(directory: Path) -> Iterator[None]:
    """This process and those that it starts have the settings."""
    import dask

    settings = make_certificate(directory)
    merged = dask.config.merge(dask.config.config, yaml.safe_load(settings.read_text()))
    with pytest.MonkeyPatch.context() as patch, dask.config.set(merged):
        patch.setenv("DASK_CONFIG", os.fspath(settings))
        yield
