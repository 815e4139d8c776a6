"""Training steps of tiny models: the arms train alike, and the marks count attention."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("neuralforecast")

from flashbench.errors import UnsupportedError
from flashbench.integrations.forecasting.models import MODELS
from flashbench.studies.train import TrainStudy
from flashbench.studies.train.agreement import disagreement
from flashbench.studies.train.study import TrainPoint
from flashbench.studies.train.workload import TrainingWorkload, arguments, build

ARMS = ("standard", "flash", "torch-flash", "torch-math")
SMALL: dict[str, dict[str, Any]] = {
    "tft": {"hidden_size": 16, "n_head": 2},
    "informer": {"hidden_size": 16, "n_head": 2, "encoder_layers": 1},
    "autoformer": {"hidden_size": 16, "n_head": 2, "encoder_layers": 1},
    "fedformer": {"hidden_size": 16, "n_head": 8, "encoder_layers": 1, "modes": 4},
    "patchtst": {"hidden_size": 16, "n_heads": 2, "encoder_layers": 1},
    "itransformer": {"hidden_size": 16, "n_heads": 2, "e_layers": 1},
}


def workload(model: str, attention: str = "flash", **settings: Any) -> TrainingWorkload:
    chosen: dict[str, Any] = {
        "models": [model],
        "context_lengths": [32],
        "horizon": 4,
        "windows": 2,
        "series": 6,
        "data": "synthetic",
        "settings": {model: SMALL[model]},
        "variant": "full-attention",
    }
    study = TrainStudy(**(chosen | settings))
    return build(**arguments(TrainPoint(model, study.context_lengths[0], attention), study))


@pytest.mark.grid
@pytest.mark.parametrize("model", MODELS)
def test_the_four_arms_train_alike(model: str) -> None:
    losses = {}
    for arm in ARMS:
        step = workload(model, arm)
        found = step.check()
        losses[arm] = found["losses"]
        assert 0 < found["attention_share"] < 1
        assert found["attention_calls"] >= 1
        assert min(found["attention_forward_ns"], found["attention_backward_ns"]) > 0
        assert min(found["forward_ns"], found["backward_ns"], found["optimizer_ns"]) > 0
    for arm in ARMS[1:]:
        assert disagreement(losses[arm], losses["standard"]) is None
    assert len(set(losses["standard"])) == 3  # it trains


def test_a_shipped_model_trains_as_with_standard_attention() -> None:
    own, standard = (workload("patchtst", arm).check() for arm in ("original", "standard"))
    assert disagreement(own["losses"], standard["losses"]) is None
    assert "attention_share" not in own  # neuralforecast's own attention is not one function


@pytest.mark.parametrize("arm", ARMS)
def test_autocast_trains_in_bfloat16_and_keeps_float32_weights(arm: str) -> None:
    step, exact = workload("patchtst", arm, autocast="bfloat16"), workload("patchtst", arm)
    losses, expected = step.check()["losses"], exact.check()["losses"]
    assert losses != expected
    assert disagreement(losses, expected, "bfloat16") is None
    assert {x.dtype for x in step._model.parameters()} == {step._torch.float32}


def test_the_marks_count_calls_and_see_the_largest() -> None:
    one = workload("patchtst").check()
    layers = SMALL["patchtst"] | {"encoder_layers": 2}
    two = workload("patchtst", settings={"patchtst": layers}).check()
    assert (one["attention_calls"], two["attention_calls"]) == (1, 2)
    batch, heads, queries, keys, *_ = one["attention_shape"]
    assert (batch, heads) == (2, 2)
    assert queries == keys
    strided = workload("patchtst", patch_stride=8).check()["attention_shape"]
    assert strided[2] < queries


def test_the_marks_leave_gradients_and_the_attention_as_they_were() -> None:
    import torch

    from flashbench.integrations.torch import ATTENTIONS
    from flashbench.integrations.torch.marks import attention_marked

    def gradients() -> list[torch.Tensor]:
        q, k, v = (torch.randn(1, 2, 8, 4, generator=g, requires_grad=True) for _ in range(3))
        ATTENTIONS["torch-math"](q, k, v).square().sum().backward()
        return [q.grad, k.grad, v.grad]

    before = ATTENTIONS["torch-math"]
    g = torch.Generator().manual_seed(0)
    plain = gradients()
    g.manual_seed(0)
    with attention_marked(ATTENTIONS, "torch-math") as clock:
        marked = gradients()
    assert ATTENTIONS["torch-math"] is before
    assert clock.calls == 1
    assert clock.largest == (1, 2, 8, 8, 4, 4)
    assert min(clock.forward_ns, clock.backward_ns) > 0
    assert all(torch.equal(x, y) for x, y in zip(plain, marked, strict=True))


def test_what_a_workload_says_of_itself() -> None:
    step = workload("itransformer")
    step.call()
    facts = step.describe()
    assert (facts["series"], facts["data"]) == (6, "synthetic")
    assert 0 < facts["output_bytes"] <= 4 * facts["parameters"]
    assert facts["buffer_bytes"] == 0
    step.forget()
    assert step.describe()["output_bytes"] == 0


def test_a_dense_mask_is_among_the_buffers() -> None:
    facts = workload("tft").describe()
    assert facts["buffer_bytes"] >= 4 * 32**2  # a float32 array (context, context)


def test_no_window_and_no_softmax_attention_are_unsupported() -> None:
    with pytest.raises(UnsupportedError, match="2 windows need 261"):
        workload("patchtst", data="airpassengers", context_lengths=[256])
    with pytest.raises(UnsupportedError, match="ProbSparse"):
        workload("informer", variant=None)
    with pytest.raises(UnsupportedError, match="as shipped"):
        workload("informer", "original")
