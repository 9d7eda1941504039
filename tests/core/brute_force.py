"""The published update rules of few-step solvers, written out once more in numpy, as plainly as they can be: oracles.

Nothing here comes from the engine. Everything is in EDM's clock and float64; `model.data(x, t)` is the denoiser.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
AB = {1: [1.0], 2: [1.5, -0.5], 3: [23 / 12, -16 / 12, 5 / 12], 4: [55 / 24, -59 / 24, 37 / 24, -9 / 24]}


class Model:
    """The exact denoiser of a Gaussian mixture, which remembers the levels it was asked at."""

    def __init__(self, means: Array, weights: Array, stds: Array) -> None:
        self.means, self.weights, self.stds = means, weights / weights.sum(), stds
        self.levels: list[float] = []

    def denoise(self, x: Array, sigma: float) -> Array:
        n = self.means[0].size
        gap = x[:, None] - self.means[None]
        variance = self.stds**2 + sigma**2
        logit = (
            np.log(self.weights)
            - n / 2 * np.log(variance)
            - (gap.reshape(*gap.shape[:2], -1) ** 2).sum(-1) / (2 * variance)
        )
        share = np.exp(logit - logit.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        shape = (len(variance), *(1,) * (x.ndim - 1))
        mean = self.means[None] + (self.stds**2 / variance).reshape(shape) * gap
        return (share.reshape(*share.shape, *(1,) * (x.ndim - 1)) * mean).sum(1)

    def data(self, x: Array, sigma: float) -> Array:
        self.levels.append(float(sigma))
        return self.denoise(x, sigma)

    def slope(self, x: Array, t: float, first: bool = False, told: float = 1.0) -> Array:
        """dx/dt; at an analytic first step without the denoiser, else with the level told to it scaled."""
        return x / math.sqrt(1 + t * t) if first else (x - self.data(x, told * t)) / t


def karras(points: int, first: float = 80.0, last: float = 0.002, rho: float = 7.0) -> Array:
    u = np.arange(points) / (points - 1)
    return (first ** (1 / rho) + u * (last ** (1 / rho) - first ** (1 / rho))) ** rho


def logsnr(points: int, first: float = 80.0, last: float = 0.002) -> Array:
    return np.exp(np.linspace(np.log(first), np.log(last), points))


def vp_constants(first: float = 80.0, last: float = 0.002, end: float = 1e-3) -> tuple[float, float]:
    growth = 2 * (np.log(last**2 + 1) / end - np.log(first**2 + 1)) / (end - 1)
    return growth, np.log(first**2 + 1) - growth / 2


def vp_even(points: int, rho: float) -> Array:
    growth, rate = vp_constants()
    tau = (1 + np.arange(points) / (points - 1) * (1e-3 ** (1 / rho) - 1)) ** rho
    return np.sqrt(np.exp(growth * tau**2 / 2 + rate * tau) - 1)


def heun(model: Model, x: Array, t: Array, afs: bool) -> Array:
    for i, (a, b) in enumerate(itertools.pairwise(t)):
        d = model.slope(x, a, afs and i == 0)
        x = x + (b - a) * (d + model.slope(x + (b - a) * d, b)) / 2
    return x


def dpm_solver_2(model: Model, x: Array, t: Array, afs: bool, r: float = 0.5) -> Array:
    for i, (a, b) in enumerate(itertools.pairwise(t)):
        d, middle = model.slope(x, a, afs and i == 0), b**r * a ** (1 - r)
        inner = model.slope(x + (middle - a) * d, middle)
        x = x + (b - a) * (inner / (2 * r) + (1 - 1 / (2 * r)) * d)
    return x


Weigh = Callable[[int, Array, int], list[float]]
"""(step, times, how many evaluations) -> their weights, newest first."""


def multistep(model: Model, x: Array, t: Array, afs: bool, k: int, weigh: Weigh) -> Array:
    past: list[Array] = []
    for i, (a, b) in enumerate(itertools.pairwise(t)):
        past = [model.slope(x, a, afs and i == 0), *past][:k]
        x = x + (b - a) * sum(c * d for c, d in zip(weigh(i, t, len(past)), past, strict=True))
    return x


def even(i: int, t: Array, count: int) -> list[float]:
    return AB[count]


def exact(i: int, t: Array, count: int) -> list[float]:
    """Means over the step of the polynomials that are 1 at one node and 0 at the others."""
    h, nodes = t[i + 1] - t[i], (t[i - count + 1 : i + 1][::-1] - t[i]) / (t[i + 1] - t[i])
    del h
    found = []
    for j in range(count):
        others = np.delete(nodes, j)
        line = np.poly1d(others, r=True) / np.prod(nodes[j] - others) if count > 1 else np.poly1d([1.0])
        found.append(float(line.integ()(1.0)))
    return found


def misplaced_parenthesis(i: int, t: Array, count: int) -> list[float]:
    """The published iPNDM_v up to order 3."""
    if count < 3:
        return exact(i, t, count)
    h, h1, h2 = t[i + 1] - t[i], t[i] - t[i - 1], t[i - 1] - t[i - 2]
    ratio = h * (h + h1) / (h1 * (h1 + h2))
    wrong = (1 - h / (3 * (h + h1)) * ratio) / 2
    c2 = h / (2 * h1)
    return [1 + c2 + wrong, -c2 - wrong * (1 + h1 / h2), wrong * h1 / h2]


def deis(i: int, t: Array, count: int) -> list[float]:
    """Weights in VP time by the published sum over 10 000 points."""
    if count == 1:
        return [1.0]
    growth, rate = vp_constants()
    tau = (np.sqrt(rate**2 + 2 * growth * np.log(1 + t**2)) - rate) / growth
    points = np.linspace(tau[i], tau[i + 1], 10_000)
    sigma = np.sqrt(np.exp(growth * points**2 / 2 + rate * points) - 1)
    pace, nodes = (1 + sigma**2) * (growth * points + rate) / (2 * sigma), tau[i - count + 1 : i + 1][::-1]
    found = []
    for j in range(count):
        basis = np.prod([(points - n) / (nodes[j] - n) for k, n in enumerate(nodes) if k != j], axis=0)
        found.append(float((pace * basis).sum() * (tau[i + 1] - tau[i]) / 10_000 / (t[i + 1] - t[i])))
    return found


def threshold(data: Array) -> Array:
    s = np.quantile(np.abs(data).reshape(len(data), -1), 0.995, axis=1).clip(min=1.0)
    s = s.reshape(-1, *(1,) * (data.ndim - 1))
    return np.clip(data, -s, s) / s


def predicted(model: Model, x: Array, t: float, noise: bool, first: bool = False, told: float = 1.0) -> Array:
    """What exponential methods extrapolate: the noise, or the thresholded data."""
    d = model.slope(x, t, first, told)
    return d if noise else threshold(x - t * d)


def dpm_pp_step(x: Array, t: list[float], m: list[Array], order: int, noise: bool, scale: float = 1.0) -> Array:
    """From t[-2] to t[-1], with predictions m (newest last) at the times before; `scale` of all but the linear part."""
    lam = -np.log(np.array(t))
    h = lam[-1] - lam[-2]
    m0 = m[-1]
    phi1 = np.expm1(h) if noise else np.expm1(-h)
    front, keep = (t[-1], 1.0) if noise else (1.0, t[-1] / t[-2])
    change = phi1 * m0
    if order > 1:
        r0 = (lam[-2] - lam[-3]) / h
        first = (m0 - m[-2]) / r0
        if order == 2:
            change = change + phi1 * first / 2
        else:
            r1 = (lam[-3] - lam[-4]) / h
            second = (m[-2] - m[-3]) / r1
            d1, d2 = first + r0 / (r0 + r1) * (first - second), (first - second) / (r0 + r1)
            phi2 = phi1 / h - 1 if noise else phi1 / h + 1
            phi3 = phi2 / h - 0.5
            sign = 1 if noise else -1
            change = change + sign * phi2 * d1 + phi3 * d2
    return keep * x - scale * front * change


def dpm_pp_order(step: int, points: int, k: int, final: bool) -> int:
    return min(k, points - step) if final and step >= k else min(k, step)


def dpm_pp(model: Model, x: Array, t: Array, afs: bool, k: int, noise: bool = False, final: bool = True) -> Array:
    m: list[Array] = []
    for i in range(len(t) - 1):
        m.append(predicted(model, x, t[i], noise, afs and i == 0))
        x = dpm_pp_step(x, list(t[: i + 2]), m, dpm_pp_order(i + 1, len(t), k, final), noise)
    return x


def unipc(model: Model, x: Array, t: Array, afs: bool, k: int, bh1: bool = False, noise: bool = False) -> Array:
    lam, n = -np.log(t), len(t)
    m = [predicted(model, x, t[0], noise, afs)]
    for i in range(n - 1):
        starting = i + 1 < k
        o = i + 1 if starting else min(k, n - 1 - i)
        h = lam[i + 1] - lam[i]
        hh = h if noise else -h
        phi = np.expm1(hh)
        b_h = hh if bh1 else phi
        r = np.array([(lam[i - j] - lam[i]) / h for j in range(1, o)] + [1.0])
        d1 = [(m[-1 - j] - m[-1]) / r[j - 1] for j in range(1, o)]
        matrix = np.array([r**q for q in range(o)])
        right, g, factorial = [], phi / hh - 1, 1.0
        for q in range(1, o + 1):
            right.append(g * factorial / b_h)
            factorial *= q + 1
            g = g / hh - 1 / factorial
        predictor = [0.5] if o == 2 else np.linalg.solve(matrix[: o - 1, : o - 1], right[: o - 1])
        base = x - t[i + 1] * phi * m[-1] if noise else t[i + 1] / t[i] * x - phi * m[-1]
        front = t[i + 1] * b_h if noise else b_h
        x_next = base - front * sum((p * d for p, d in zip(predictor, d1, strict=True)), np.zeros_like(x))
        if starting or i < n - 2:
            m_next = predicted(model, x_next, t[i + 1], noise)
            corrector = [0.5] if o == 1 else np.linalg.solve(matrix, right)
            terms = [*d1, m_next - m[-1]]
            x_next = base - front * sum(c * d for c, d in zip(corrector, terms, strict=True))
            m.append(m_next)
        x = x_next
    return x


def amed(model: Model, x: Array, t: Array, afs: bool, r: float, direction: float, time: float) -> Array:
    for i, (a, b) in enumerate(itertools.pairwise(t)):
        d, m = model.slope(x, a, afs and i == 0), b**r * a ** (1 - r)
        x = x + direction * (b - a) * model.slope(x + (m - a) * d, m, told=time)
    return x


def amed_plugin(model: Model, x: Array, t: Array, afs: bool, r: float, direction: float, time: float, k: int) -> Array:
    """iPNDM-k on halved steps; k = 1 is Euler's."""
    past: list[Array] = []
    for i, (a, b) in enumerate(itertools.pairwise(t)):
        m = b**r * a ** (1 - r)
        past = [model.slope(x, a, afs and i == 0), *past][:k]
        y = x + (m - a) * sum(c * d for c, d in zip(AB[len(past)], past, strict=True))
        past = [model.slope(y, m, told=time), *past][:k]
        x = y + direction * (b - m) * sum(c * d for c, d in zip(AB[len(past)], past, strict=True))
    return x


def amed_dpm_solver_2(model: Model, x: Array, t: Array, afs: bool, r: float, direction: float, time: float) -> Array:
    for i, (a, b) in enumerate(itertools.pairwise(t)):
        d, m = model.slope(x, a, afs and i == 0), b**r * a ** (1 - r)
        inner = model.slope(x + (m - a) * d, m, told=time)
        x = x + direction * (b - a) * (inner / (2 * r) + (1 - 1 / (2 * r)) * d)
    return x


def amed_dpm_pp(
    model: Model, x: Array, t: Array, afs: bool, r: float, direction: float, time: float, k: int, noise: bool
) -> Array:
    """DPM-Solver++ on halved steps, the order rule counting these."""
    times, m, points = [t[0]], [], 2 * len(t) - 1
    for i, (a, b) in enumerate(itertools.pairwise(t)):
        for half, end in enumerate((b**r * a ** (1 - r), b)):
            m.append(predicted(model, x, times[-1], noise, afs and i == half == 0, time if half else 1.0))
            times.append(end)
            order = dpm_pp_order(2 * i + half + 1, points, k, True)
            x = dpm_pp_step(x, times, m, order, noise, direction if half else 1.0)
    return x


def epd(
    model: Model, x: Array, t: Array, afs: bool, w: Array, r: Array, direction: Array, time: Array, k: int = 1
) -> Array:
    """Tables (steps, points); the points of a plugin are reached by iPNDM-k."""
    past: list[Array] = []
    for i, (a, b) in enumerate(itertools.pairwise(t)):
        past = [model.slope(x, a, afs and i == 0), *past][:k]
        g = sum(c * d for c, d in zip(AB[len(past)], past, strict=True))
        places = b ** r[i] * a ** (1 - r[i])
        slopes = [model.slope(x + (m - a) * g, m, told=c) for m, c in zip(places, time[i], strict=True)]
        x = x + (b - a) * sum(share * s * e for share, s, e in zip(w[i], direction[i], slopes, strict=True))
    return x


def dyweight(model: Model, x: Array, t: Array, afs: bool, w: Array, scale: Array) -> Array:
    tau, slopes = t[0], []
    for i in range(len(t) - 1):
        if afs and i == 0:
            slopes.append(x / math.sqrt(1 + tau**2))
        else:
            slopes.append((x - model.data(x, abs(scale[i - afs] * tau))) / (tau + 1e-8))
        x = x + (t[i + 1] - tau) * sum(w[i, j] * slopes[j] for j in range(i + 1))
        tau = tau + w[i, : i + 1].sum() * (t[i + 1] - tau)
    return x
