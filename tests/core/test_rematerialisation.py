"""Blocks that forget their activations: the same values and gradients, less kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.rematerialisation import forget_activations


class Block(nn.Module):
    """Counts its calls; draws dropout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Dropout(0.4), nn.Linear(3 * width, width))
        self.calls = 0

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        self.calls += 1
        return x + self.layer(x + shift)


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block(5) for _ in range(3))
        self.shared = Block(5)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(self.shared(x, x.mean(0)), x)
        return x


def gradients(network: Blocks) -> tuple[Tensor, dict[str, Tensor]]:
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)  # of the dropout
    value = network(x).square().sum()
    value.backward()
    return value.detach(), {name: parameter.grad for name, parameter in network.named_parameters()}


def test_values_and_gradients_stay_the_same_with_dropout() -> None:
    plain, forgetful = Blocks(), Blocks()
    forget_activations(part for part in forgetful.modules() if isinstance(part, Block))
    assert forgetful.state_dict().keys() == plain.state_dict().keys()
    (value, expected), (again, got) = gradients(plain), gradients(forgetful)
    assert torch.equal(again, value)
    assert expected.keys() == got.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    assert [block.calls for block in plain.blocks] == [1, 1, 1]
    assert [block.calls for block in forgetful.blocks] == [2, 2, 2]
    assert forgetful.shared.calls == 2 * plain.shared.calls == 6


def test_without_gradients_nothing_is_computed_twice() -> None:
    network = Blocks()
    forget_activations(network.blocks)
    with torch.no_grad():
        network(torch.ones(2, 5))
    assert [block.calls for block in network.blocks] == [1, 1, 1]


def test_fewer_bytes_are_kept_for_the_backward_pass() -> None:
    def kept(network: Blocks) -> int:
        total = 0

        def pack(value: Tensor) -> Tensor:
            nonlocal total
            total += value.numel()
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            network(torch.ones(7, 5))
        return total

    plain, forgetful = Blocks(), Blocks()
    forget_activations([*forgetful.blocks, forgetful.shared])
    assert kept(forgetful) < 0.5 * kept(plain)
