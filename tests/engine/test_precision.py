"""What a run asks of the machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from maskrcnn_train.engine.precision import autocast, grad_scaler, set_determinism
from maskrcnn_train.settings.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def restored() -> Iterator[None]:
    yield
    set_determinism(False)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("enabled", [True, False])
def test_determinism_refuses_operations_with_several_results(enabled: bool) -> None:
    set_determinism(enabled)
    target, indices, values = torch.zeros(2), torch.tensor([0, 0]), torch.ones(2)
    if enabled:
        with pytest.raises(RuntimeError, match="deterministic"):
            target.put_(indices, values)
    else:
        target.put_(indices, values)


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_model_computes_at_the_precision(name: str, dtype: torch.dtype) -> None:
    with autocast(name, CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_fp16_is_refused_on_a_processor() -> None:
    with pytest.raises(UserError, match="needs a GPU"):
        grad_scaler("fp16", CPU)
