"""Which kinds of tile registers a test can run: emulated ones always, Intel's where there are any."""

from __future__ import annotations

import pytest

from flashbench.codegen.isa import cpu_features
from flashbench.kernels.products.paths import PATHS


def _missing() -> str:
    path = PATHS["amx"]
    lacking = path.needs - cpu_features()
    return f"this CPU lacks {', '.join(sorted(lacking))}" if lacking else path.refusal() or ""


needs_amx = pytest.mark.skipif(bool(_missing()), reason=f"needs AMX: {_missing()}")
KINDS = [pytest.param("amx", marks=needs_amx), "amx-emulated"]
SPLIT_KINDS = [pytest.param("amx_split", marks=needs_amx), "amx_split-emulated"]
FLOAT16_KINDS = [pytest.param("amx_f16", marks=needs_amx), "amx_f16-emulated"]
