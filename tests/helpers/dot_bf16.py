"""Which products of pairs a test can run: the emulated one always, AVX512-BF16's where there is any."""

from __future__ import annotations

import pytest

from flashbench.codegen.isa import HAS_BFLOAT16

needs_dot_bf16 = pytest.mark.skipif(not HAS_BFLOAT16, reason="this CPU lacks AVX512-BF16")
KINDS = [pytest.param("dot_bf16", marks=needs_dot_bf16), "dot_bf16-emulated"]
