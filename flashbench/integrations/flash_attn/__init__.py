"""flash-attention's functions on CPUs: names, arguments, layouts and results of the package `flash_attn` 2.8.

`install()` makes `import flash_attn` mean this package, for models that import it.

Needs the extra `torch`: pip install 'flashbench[torch]'.
"""

from __future__ import annotations

import flashbench.integrations.torch as _torch  # noqa: F401  # it says which extra is missing
from flashbench.integrations.flash_attn.installation import FLASH_ATTN_VERSION, install, uninstall
from flashbench.integrations.flash_attn.kv_cache import flash_attn_with_kvcache
from flashbench.integrations.flash_attn.padded import (
    flash_attn_func,
    flash_attn_kvpacked_func,
    flash_attn_qkvpacked_func,
)
from flashbench.integrations.flash_attn.varlen import (
    flash_attn_varlen_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
)

__all__ = [
    "FLASH_ATTN_VERSION",
    "flash_attn_func",
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "flash_attn_with_kvcache",
    "install",
    "uninstall",
]
