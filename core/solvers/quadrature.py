"""The Lagrange basis on uneven nodes and its means: the one quadrature of the multistep methods."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Gauss-Legendre on [-1, 1] with two points integrates cubics exactly: enough for the bases of up to four nodes.
GAUSS_POINT = 1 / math.sqrt(3)
MOST_NODES = 4


def lagrange_means(nodes: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Weights w_j, the mean of L_j(s) from start to end, where the polynomial L_j is 1 at node j and 0 at the others.

    They turn values at the nodes into the mean, over the step, of the polynomial through them (Hairer, Norsett &
    Wanner, Solving Ordinary Differential Equations I, III.1 and III.5: variable-step Adams-Bashforth).

    Args:
        nodes: (K,) distinct, K <= 4, in any order; or (K, *shape) for weights of several steps at once.
        start, end: () ends of the step, or of that shape.

    Returns:
        Weights of the shape of the nodes; they sum to 1 over the first axis.
    """
    middle, half = (start + end) / 2, (end - start) / 2
    points = torch.stack([middle - GAUSS_POINT * half, middle + GAUSS_POINT * half])
    return lagrange(nodes, points).mean(0)


def lagrange(nodes: Tensor, points: Tensor) -> Tensor:
    """L_j(s) at each point s (P, *shape) for each of the distinct nodes (K, *shape): (P, K, *shape)."""
    same = torch.eye(len(nodes), dtype=torch.bool, device=nodes.device)
    same = same.view(*same.shape, *(1,) * (nodes.ndim - 1))
    below = (nodes[:, None] - nodes).masked_fill(same, 1.0)
    above = (points[:, None, None] - nodes).expand(-1, *below.shape).masked_fill(same, 1.0)
    return (above / below).prod(2)
