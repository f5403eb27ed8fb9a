"""Muon: the momentum of each weight matrix is made orthogonal, so that all its directions move equally far.

From Jordan et al. 2024 (kellerjordan.github.io/posts/muon), with the scale of Liu et al. 2025 (arXiv:2502.16982). A
convolution is the matrix of its outputs by its inputs, as there. `torch.optim.Muon` takes no convolutions, and it
computes in bf16, which is slow on processors without it.
"""

from collections.abc import Sequence
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
        weights: list[Tensor] = [each for each in group["params"] if each.grad is not None]
        if not weights:
            return
        gradients: list[Tensor] = [each.grad for each in weights if each.grad is not None]
        averages = [self._average(each) for each in weights]
        torch._foreach_mul_(averages, group["momentum"])
        torch._foreach_add_(averages, gradients)
        ahead = torch._foreach_add(gradients, averages, alpha=group["momentum"])
        updates = orthogonal([_matrix(each) for each in ahead])
        torch._foreach_mul_(updates, [max(each.shape) ** 0.5 for each in updates])
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        changes = list(map(_shaped, updates, weights))
        torch._foreach_add_(weights, changes, alpha=-group["lr"] * ADAMW_SIZE)

    def _average(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if not state:  # AdamW looks for `step` in every state that it loads
            state.update(step=torch.zeros((), dtype=torch.float32), momentum=torch.zeros_like(weight))
        average: Tensor = state["momentum"]
        return average


def _matrix(weight: Tensor) -> Tensor:
    """Outputs by inputs. A convolution's inputs are in the order of channels_last, which then needs no copy."""
    return weight.movedim(1, -1).flatten(1)


def _shaped(matrix: Tensor, weight: Tensor) -> Tensor:
    """A change of a weight's matrix in the form of the weight."""
    last: Tensor = matrix.unflatten(1, weight.movedim(1, -1).shape[1:])
    return last.movedim(-1, 1)


def orthogonal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """The nearest orthogonal matrices, about: singular values of 0.7 to 1.2. Each float [rows, columns].

    The polynomials are multiplied as matrices of the shorter side, which are smaller than `matrices`, and together for
    all whose shorter side is the same.
    """
    by_side: dict[int, dict[torch.Size, list[int]]] = {}
    for index, each in enumerate(matrices):
        by_side.setdefault(min(each.shape), {}).setdefault(each.shape, []).append(index)
    found: dict[int, Tensor] = {}
    for by_shape in by_side.values():
        stacks = [torch.stack([matrices[index] for index in own]) for own in by_shape.values()]
        wide = [each.mT if each.shape[1] > each.shape[2] else each for each in stacks]
        wide = [each / (torch.linalg.matrix_norm(each, keepdim=True) + 1e-7) for each in wide]
        products = _products(torch.cat([each @ each.mT for each in wide])).split([len(each) for each in wide])
        for (shape, own), each, product in zip(by_shape.items(), wide, products, strict=True):
            changed = product @ each
            found.update(zip(own, changed if changed.shape[1:] == shape else changed.mT, strict=True))
    return [found[index] for index in range(len(matrices))]


def _products(gram: Tensor) -> Tensor:
    """What all iterations together multiply matrices by whose products with themselves are `gram` [N, n, n]."""
    product = factor = _factor(gram)
    for _ in range(ITERATIONS - 1):
        gram = factor @ gram @ factor
        factor = _factor(gram)
        product = factor @ product
    return product


def _factor(gram: Tensor) -> Tensor:
    """What one iteration multiplies the matrices by: a + b G + c G^2."""
    a, b, c = COEFFICIENTS
    factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal(dim1=1, dim2=2).add_(a)
    return factor
