"""Exact attention for JAX on CPUs: `dot_product_attention` with the signature and meaning of JAX's own.

Needs the extra `jax`: pip install 'flashbench[jax]'.
"""

from __future__ import annotations

from flashbench.integrations.requirements import missing

try:
    import jax as _jax  # noqa: F401
except ModuleNotFoundError as error:
    raise missing(error, "flashbench.integrations.jax", "jax") from error

from flashbench.integrations.jax.attention import dot_product_attention

__all__ = ["dot_product_attention"]
