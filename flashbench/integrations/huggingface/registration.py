"""Registers flashbench as an attention of transformers, under a name."""

from __future__ import annotations

import functools

from transformers import AttentionInterface, AttentionMaskInterface

from flashbench.engines import get_engine
from flashbench.errors import EngineError
from flashbench.integrations.huggingface.attention import attention_forward
from flashbench.integrations.huggingface.lazy_masks import lazy_mask
from flashbench.integrations.huggingface.own_classes import watch_models

# A name with one of these parts means another library to transformers, with its own masks and checks.
_SPECIAL = {
    "flash": "takes models with it for users of the flash-attn library: it drops their masks or refuses them",
    "sdpa": "takes it for PyTorch's function, and refuses it to models that have not declared support",
    "flex_attention": "takes it for PyTorch's flex_attention, and wants block masks",
    "paged|": "removes that part",
    "/": "looks for a kernel of that name on the Hub",
    ":": "looks for a kernel of that name on the Hub",
}
_ours: set[str] = set()


def register(name: str = "fb_numba", *, engine: str = "flash") -> str:
    """Register flashbench with transformers as `attn_implementation=name`, and return the name.

    It gets the masks of "eager". So a model that adds the mask to its own scores stays correct, and causality
    does not depend on a module's `is_causal`. A model with its own attention classes, such as Falcon, keeps
    its eager classes, with a warning. Registering a name again changes its engine.

    engine: "flash" or another engine of flashbench that has gradients.

    Raises EngineError if the name means something else to transformers, or the engine is unknown.
    """
    for part, does in _SPECIAL.items():
        if part in name:
            raise EngineError(
                f"an attention's name must not contain {part!r}, and {name!r} does: transformers {does}",
                hint="the default is 'fb_numba'",
            )
    taken = name == "eager" or (name in AttentionInterface._global_mapping and name not in _ours)
    if not name or taken:
        raise EngineError(f"an attention's name must be a new one in transformers, not {name!r}")
    get_engine(engine)
    AttentionInterface.register(name, functools.partial(attention_forward, engine=engine))
    AttentionMaskInterface.register(name, lazy_mask)
    _ours.add(name)
    watch_models(_ours)
    return name
