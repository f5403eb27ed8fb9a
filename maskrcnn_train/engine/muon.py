"""Muon: the momentum of each weight matrix is made orthogonal, so that all its directions move equally far.

From Jordan et al. 2024 (kellerjordan.github.io/posts/muon), with the scale of Liu et al. 2025 (arXiv:2502.16982). A
convolution is the matrix of its outputs by its inputs, as there. `torch.optim.Muon` takes no convolutions, and it
computes in bf16, which is slow on processors without it.
"""

from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # a x + b x^3 + c x^5 brings singular values near 1
ITERATIONS = 5
ADAMW_SIZE = 0.2  # root mean square of an update of AdamW, about: both kinds then share a learning rate


class Muon(torch.optim.AdamW):
    """Muon for groups with `matrices=True`, AdamW for the others. momentum: of the matrices; Nesterov's."""

    def __init__(self, groups: list[dict[str, Any]], lr: float, *, momentum: float, betas: tuple[float, float]) -> None:
        super().__init__([group | {"momentum": momentum} for group in groups], lr=lr, betas=betas, fused=True)
        # with fp16 the scaler itself then leaves out a step whose gradients are not finite
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step along the gradients that there are."""
        groups = self.param_groups
        for group in groups:
            if group["matrices"]:
                self._step_matrices(group)
        self.param_groups = [group for group in groups if not group["matrices"]]
        try:
            super().step()
        finally:
            self.param_groups = groups

    def _step_matrices(self, group: dict[str, Any]) -> None:
        by_shape: dict[tuple[int, int], list[Tensor]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape.setdefault((len(parameter), parameter[0].numel()), []).append(parameter)
        for shape, weights in by_shape.items():
            gradients: list[Tensor] = [each.grad for each in weights if each.grad is not None]
            averages = [self._average(each) for each in weights]
            torch._foreach_mul_(averages, group["momentum"])
            torch._foreach_add_(averages, gradients)
            ahead = torch._foreach_add(gradients, averages, alpha=group["momentum"])
            updates = orthogonal(torch.stack([each.reshape(shape) for each in ahead]))
            changes = [update.view_as(each) for update, each in zip(updates, weights, strict=True)]
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(weights, changes, alpha=-group["lr"] * ADAMW_SIZE * max(shape) ** 0.5)

    def _average(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if not state:  # AdamW looks for `step` in every state that it loads
            state.update(step=torch.zeros((), dtype=torch.float32), momentum=torch.zeros_like(weight))
        average: Tensor = state["momentum"]
        return average


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest orthogonal matrices, about: singular values of 0.7 to 1.2. float [N, rows, columns].

    The polynomials are multiplied as matrices of the shorter side, which are smaller than `matrices`.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    wide: Tensor = matrices.mT if tall else matrices
    wide = wide / (torch.linalg.matrix_norm(wide, keepdim=True) + 1e-7)
    gram = wide @ wide.mT
    product = factor = _factor(gram)
    for _ in range(ITERATIONS - 1):
        gram = factor @ gram @ factor
        factor = _factor(gram)
        product = factor @ product
    wide = product @ wide
    return wide.mT if tall else wide


def _factor(gram: Tensor) -> Tensor:
    """What one iteration multiplies the matrices by: a + b G + c G^2."""
    a, b, c = COEFFICIENTS
    factor = b * gram + c * (gram @ gram)
    factor.diagonal(dim1=1, dim2=2).add_(a)
    return factor
