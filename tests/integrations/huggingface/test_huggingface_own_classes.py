"""Models with their own dict of attention classes keep the eager class, with a warning."""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from helpers.huggingface_models import default_dtype

from flashbench.integrations.huggingface import own_classes, stats

NAME = "fb_numba"
MODELS = Path(transformers.__file__).parent / "models"

_TEXT = {"vocab_size": 64, "hidden_size": 32}
_VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
_SAM = {**_VISION, "output_channels": 16, "mlp_dim": 32, "global_attn_indexes": [1], "window_size": 2}
_BARK = {"input_vocab_size": 64, "output_vocab_size": 64, "block_size": 32}


def _tokens() -> dict[str, Any]:
    return {
        "input_ids": torch.randint(1, 64, (2, 11)),
        "attention_mask": (torch.arange(11) > 2).long().expand(2, -1),
    }


def _image() -> dict[str, Any]:
    return {"pixel_values": torch.randn(1, 3, 32, 32)}


FAMILIES: dict[str, tuple[str, dict[str, Any], Callable[[], dict[str, Any]]]] = {
    "Falcon": ("FalconForCausalLM", {**_TEXT, "num_hidden_layers": 2, "num_attention_heads": 4}, _tokens),
    "GPTNeo": (
        "GPTNeoForCausalLM",
        {
            **_TEXT, "num_layers": 2, "num_heads": 4, "window_size": 4,
            "attention_types": [[["global", "local"], 1]],
        },
        _tokens,
    ),
    "BarkSemantic": (
        "BarkSemanticModel", {**_BARK, "num_layers": 2, "num_heads": 2, "hidden_size": 32}, _tokens
    ),
    "SamVision": ("SamVisionModel", _SAM, _image),
    "SamHQVision": ("SamHQVisionModel", _SAM, _image),
    "Data2VecVision": ("Data2VecVisionModel", {**_VISION, "intermediate_size": 32}, _image),
}  # fmt: skip


def dicts_in(module: types.ModuleType) -> list[dict[str, Any]]:
    models = [x for x in vars(module).values() if isinstance(x, type) and x.__module__ == module.__name__]
    models = [x for x in models if issubclass(x, transformers.PreTrainedModel)]
    return [classes for _, classes in own_classes._dicts_of_classes(models[0])]


@pytest.fixture(autouse=True)
def _as_if_never_asked() -> Iterator[None]:
    """Restore transformers' dicts, which otherwise stay changed for the whole process."""
    yield
    for module in [x for name, x in sys.modules.items() if name.startswith("transformers.models.")]:
        for value in list(vars(module).values()):
            if type(value) is dict and isinstance(value.get("eager"), type):
                value.pop(NAME, None)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_from_disk_goes_on_with_its_eager_class_and_says_so(family: str, tmp_path: Path) -> None:
    name, arguments, inputs = FAMILIES[family]
    torch.manual_seed(0)
    given = inputs()
    model_class = getattr(transformers, name)
    with default_dtype(torch.float32):
        model = model_class._from_config(
            getattr(transformers, f"{family}Config")(**arguments), attn_implementation="eager"
        ).eval()
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=f"{name} takes its attention from .* eager attention") as caught:
        ours = model_class.from_pretrained(tmp_path, attn_implementation=NAME, dtype=torch.float32).eval()
    ours_too = [warning for warning in caught if "takes its attention" in str(warning.message)]
    assert len(ours_too) == 1
    assert ours_too[0].filename == __file__
    with torch.no_grad():
        torch.testing.assert_close(ours(**given)[0], model(**given)[0], rtol=1e-5, atol=1e-5)
    assert not stats().fallbacks
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "flashbench")
        warnings.filterwarnings("error", ".*takes its attention")
        model_class._from_config(model.config, attn_implementation=NAME)


def test_the_rest_of_such_a_model_has_our_attention() -> None:
    config = transformers.GitConfig(
        **_TEXT, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, bos_token_id=1,
        eos_token_id=2, vision_config={**_VISION, "intermediate_size": 32},
    )  # fmt: skip
    torch.manual_seed(0)
    given = _tokens() | {"pixel_values": torch.randn(2, 3, 32, 32)}
    with default_dtype(torch.float32), torch.no_grad():
        model = transformers.GitForCausalLM._from_config(config, attn_implementation="eager").eval()
        expected = model(**given).logits
        with pytest.warns(UserWarning, match="GitSelfAttention"):
            ours = transformers.GitForCausalLM._from_config(config, attn_implementation=NAME).eval()
        ours.load_state_dict(model.state_dict())
        torch.testing.assert_close(ours(**given).logits, expected, rtol=1e-5, atol=1e-5)
    assert stats().forwards == 2  # the image's layers


def test_every_family_of_this_transformers_is_found() -> None:
    found = [
        path for path in MODELS.glob("*/modeling_*.py") if "_ATTENTION_CLASSES = {" in path.read_text("utf-8")
    ]
    assert found
    for path in found:
        module = importlib.import_module(f"transformers.models.{path.parent.name}.{path.stem}")
        own = [value for name, value in vars(module).items() if name.endswith("_ATTENTION_CLASSES")]
        known = dicts_in(module)
        assert all(any(value is classes for classes in known) for value in own), path


@pytest.mark.parametrize("where", ["module", "class", "layers of another module"])
def test_families_that_do_not_exist_yet(where: str, monkeypatch: Any) -> None:
    class Attention(torch.nn.Module):
        pass

    class Layer(torch.nn.Module):
        pass

    class Model(transformers.PreTrainedModel):
        config_class = transformers.LlamaConfig

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.layer = classes[config._attn_implementation]()

    classes = {"eager": Attention}
    for name in ("their_layers", "their_model"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    Model.__module__ = "their_model"
    Layer.__module__ = "their_model" if where == "class" else "their_layers"
    sys.modules["their_model"].__dict__.update(Model=Model, Layer=Layer)
    if where == "class":
        Layer.by_name = classes
    else:
        sys.modules["their_model" if where == "module" else "their_layers"].__dict__["CLASSES"] = classes
    with pytest.warns(UserWarning, match=r"\(Layer.by_name\)" if where == "class" else r"\(CLASSES\)"):
        model = Model(transformers.LlamaConfig(attn_implementation=NAME))
    assert type(model.layer) is Attention
