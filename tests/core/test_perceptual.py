"""Distances through frozen networks: LPIPS and decoded endpoints."""

from __future__ import annotations

import warnings

import lpips
import pytest
import torch
from torch import Tensor, nn

from core.losses import LPIPS, MSE, Decoded, PerMember, latent_and_decoded


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(scope="module")
def squeeze() -> nn.Module:
    """A random trunk with the published heads: LPIPS's arithmetic without weights to download."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how lpips calls torchvision
        torch.manual_seed(0)
        return lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False).requires_grad_(False).eval()


def test_lpips_is_the_mean_of_the_networks_distances(squeeze: nn.Module) -> None:
    a, b = (drawn(3, 3, 40, 37, seed=seed, dtype=torch.float32).tanh().requires_grad_() for seed in (0, 1))
    distance = LPIPS(squeeze, "squeeze")
    assert distance.name == "lpips(squeeze)"
    value = distance(a, b)
    alone = [squeeze(a[i : i + 1], b[i : i + 1]).item() for i in range(3)]
    assert value.item() == pytest.approx(sum(alone) / 3, rel=1e-5)
    assert value.item() > 1e-3 > distance(a, a.detach().clone()).item() == 0
    value.backward()
    assert a.grad is not None
    assert a.grad.abs().sum() > 0
    assert b.grad is None
    assert all(parameter.grad is None for parameter in squeeze.parameters())


def test_lpips_of_fields_made_images(squeeze: nn.Module) -> None:
    a, b = (drawn(2, 33, 34, seed=seed, dtype=torch.float32) for seed in (0, 1))
    got = LPIPS(squeeze, "squeeze", lambda fields: fields[:, None].expand(-1, 3, -1, -1))(a, b)
    assert got.item() == squeeze(a[:, None].repeat(1, 3, 1, 1), b[:, None].repeat(1, 3, 1, 1)).mean().item()


class Counted(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.calls = network.double().requires_grad_(False), 0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.network(x)


def decoder() -> Counted:
    torch.manual_seed(1)
    return Counted(nn.Sequential(nn.ConvTranspose2d(4, 5, 2, stride=2), nn.GELU(), nn.Conv2d(5, 3, 3, padding=1)))


def features() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.GELU()).double().requires_grad_(False).eval()


def test_latent_and_decoded_is_its_formula_and_gradient() -> None:
    decode, net = decoder(), features()
    z, z_teacher = drawn(2, 4, 6, 7, seed=3).requires_grad_(), drawn(2, 4, 6, 7, seed=4)
    loss = latent_and_decoded(0.3, decode, lambda images: [net(images)], "net")
    assert loss.name == "1 mse + 0.3 decoded(features(net,plain))"
    value = loss(z, z_teacher)
    expected = (z - z_teacher).square().mean() + 0.3 * (net(decode(z)) - net(decode(z_teacher))).square().mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    (got,), (known,) = torch.autograd.grad(value, z), torch.autograd.grad(expected, z)
    torch.testing.assert_close(got, known, rtol=1e-10, atol=1e-12)
    assert all(parameter.grad is None for parameter in (*decode.parameters(), *net.parameters()))


@pytest.mark.parametrize(("rematerialise", "calls"), [(True, 3), (False, 2)])
def test_rematerialised_decoders_are_called_again_in_the_backward_pass(rematerialise: bool, calls: int) -> None:
    decode = decoder()
    z = drawn(2, 4, 6, 7, seed=3).requires_grad_()
    value = Decoded(MSE(), decode, rematerialise)(z, drawn(2, 4, 6, 7, seed=4))
    assert decode.calls == 2
    value.backward()
    assert decode.calls == calls
    known = torch.autograd.grad(MSE()(decode(z), decode(drawn(2, 4, 6, 7, seed=4))), z)[0]
    torch.testing.assert_close(z.grad, known, rtol=1e-12, atol=1e-14)


def test_members_are_decoded_one_by_one() -> None:
    members, reference = drawn(2, 3, 4, 6, 7, seed=5), drawn(2, 4, 6, 7, seed=6)
    distance = Decoded(MSE(), decoder())
    expected = sum(distance(members[:, i], reference).item() for i in range(3)) / 3
    assert PerMember(distance)(members, reference).item() == pytest.approx(expected, rel=1e-12)


def test_networks_that_are_not_frozen_are_refused(squeeze: nn.Module) -> None:
    with pytest.raises(ValueError, match="2 parameters that require gradients"):
        Decoded(MSE(), nn.Conv2d(2, 3, 1))
    with pytest.raises(ValueError, match="eval mode"):
        LPIPS(nn.Sequential(nn.Dropout()), "none")
    with pytest.raises(ValueError, match=r"reference's shape \(1, 3, 32, 33\)"):
        LPIPS(squeeze, "squeeze")(torch.zeros(2, 3, 32, 33), torch.zeros(1, 3, 32, 33))
