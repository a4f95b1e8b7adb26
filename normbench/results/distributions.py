"""Student's t, the beta distribution and the power of a t test: scipy takes longer to import than
a table to make."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import count
from statistics import NormalDist

NODES = 400  # of the quadrature over the sample deviation
FAR = 33.0  # e**-FAR is below the rounding of 1
ROUNDING = 1e-15


def beta_cdf(x: float, a: float, b: float) -> float:
    """Give I_x(a, b), the regularized incomplete beta function.

    Source: DLMF 8.17.22, a continued fraction, evaluated by Lentz's method.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_cdf(1 - x, b, a)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front += a * math.log(x) + b * math.log1p(-x)
    value, c, d = 1.0, 1.0, 0.0
    for place in count(1):
        k, at = place // 2, a + place - 1
        top = (-(a + k) * (a + b + k) if place % 2 else k * (b - k)) * x / (at * (at + 1))
        d, c = 1 / (1 + top * d), 1 + top / c
        value *= c * d
        if abs(c * d - 1) < ROUNDING:
            break
    return math.exp(front) / (a * value)


@cache
def beta_quantile(p: float, a: float, b: float) -> float:
    """Give the x at which I_x(a, b) = p."""
    return _root(lambda x: beta_cdf(x, a, b) - p, 0.0, 1.0)


def t_cdf(t: float, n: float) -> float:
    """Give P(T <= t) of Student's t with n degrees of freedom."""
    tail = beta_cdf(n / (n + t * t), n / 2, 0.5) / 2
    return tail if t < 0 else 1 - tail


@cache
def t_quantile(p: float, n: float) -> float:
    """Give the t at which P(T <= t) = p, for Student's t with n degrees of freedom."""
    if p < 0.5:
        return -t_quantile(1 - p, n)
    x = beta_quantile(2 * (1 - p), n / 2, 0.5)
    return math.sqrt(n * (1 - x) / x)


def noncentral_t_tail(c: float, n: float, delta: float) -> float:
    """Give P(T > c) of noncentral t: (Z + delta) / W, with n W**2 of chi-square n.

    The integral over u = ln W of P(Z > c W - delta) times the density of u, by the trapezoidal
    rule, which converges exponentially since all derivatives vanish at both ends.
    """
    low, high = -FAR / n - math.sqrt(FAR / n), math.sqrt(FAR / n)
    step = (high - low) / NODES
    scale = math.log(2) + n / 2 * math.log(n / 2) - math.lgamma(n / 2)
    normal, total = NormalDist(), 0.0
    for place in range(NODES + 1):
        u = low + place * step
        density = math.exp(scale + n * u - n / 2 * math.exp(2 * u))
        total += density * normal.cdf(delta - c * math.exp(u))
    return total * step


@cache
def noncentrality(power: float, c: float, n: float) -> float:
    """Give the delta at which noncentral t exceeds c with probability `power`."""
    return _root(lambda delta: noncentral_t_tail(c, n, delta) - power, 0.0, 3 * c + 10)


def _root(f: Callable[[float], float], low: float, high: float) -> float:
    """Find where f, which rises, is 0, by the method of Illinois."""
    at_low, at_high = f(low), f(high)
    x, side = low, 0
    for _ in range(200):
        before, x = x, (low * at_high - high * at_low) / (at_high - at_low)
        value = f(x)
        if value == 0 or abs(x - before) <= ROUNDING * abs(x):
            break
        if value < 0:
            low, at_low = x, value
            at_high /= 2 if side < 0 else 1
            side = -1
        else:
            high, at_high = x, value
            at_low /= 2 if side > 0 else 1
            side = 1
    return x
