"""What the benchmark of the GPU works on and compares with: a field made on the card, and CuPy on raw values."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from hpcblaz.backend import gpu
from hpcblaz.backend.gpu_launch import SIMULATED

Call = Callable[[], Any]


def field(side: int, phase: float) -> Any:
    """Return a smooth float32 field with a little noise, made on the card, a plane at a time.

    The noise is uniform in +-1.5e-3, from hashed positions: no library of random numbers is needed.
    """
    xp = gpu.array_module()
    whole = xp.empty((side, side, side), np.float32)
    angle = xp.arange(side, dtype=np.float32) * np.float32(2 * np.pi / side)
    y, z = angle[:, None], angle[None, :]
    wave = xp.cos(2 * y) * xp.sin(3 * z)
    places = xp.arange(side * side, dtype=np.uint32).reshape(side, side)
    for i in range(side):
        hashed = (places + np.uint32((i * side * side + round(1e6 * phase)) % 2**32)) * np.uint32(2654435761)
        hashed = (hashed ^ (hashed >> np.uint32(15))) * np.uint32(2246822519)
        noise = (hashed ^ (hashed >> np.uint32(13))).astype(np.float32) * np.float32(3e-3 * 2.0**-32)
        x = 2 * math.pi * i / side + phase
        whole[i] = math.sin(x) * wave + np.float32(0.3) * xp.sin(5 * y + np.float32(7 * x)) + noise
    return whole


def formulations(x: Any, y: Any, out: Any, span: float) -> dict[str, dict[str, Call]]:
    """Return the ways that plain CuPy has to every answer, on flat arrays."""
    xp = gpu.array_module()

    def reduction(code: str, *arrays: Any) -> Call:
        names = ", ".join(f"T {name}" for name in "xy"[: len(arrays)])
        kernel = xp.ReductionKernel(names, "T out", code, "a + b", "out = a", "0", "benchmark_sum")
        return lambda: float(kernel(*arrays))

    def vdot(u: Any, v: Any) -> float:
        return float(xp.vdot(u, v))

    def product() -> float:
        return vdot(x, y) / float(x.size) - float(x.mean()) * float(y.mean())

    def similarity() -> float:
        return _similarity(float(x.mean()), float(y.mean()), float(x.var()), float(y.var()), product(), span)

    ways: dict[str, dict[str, Call]] = {
        "mean": {"mean": lambda: float(x.mean())},
        "variance": {"var": lambda: float(x.var())},
        "norm": {"linalg.norm": lambda: float(xp.linalg.norm(x)), "vdot": lambda: math.sqrt(vdot(x, x))},
        "dot": {"vdot": lambda: vdot(x, y)},
        "covariance": {"vdot, means": product},
        "cosine similarity": {"vdot, thrice": lambda: vdot(x, y) / math.sqrt(vdot(x, x) * vdot(y, y))},
        "structural similarity": {"vdot, means, var": similarity},
        "a + b": {"add, into an array": lambda: xp.add(x, y, out)},
    }
    if not SIMULATED:  # one pass, and no cuBLAS
        dot, square = reduction("x * y", x, y), reduction("x * x", x)
        ways["dot"]["ReductionKernel"] = dot
        ways["norm"]["ReductionKernel"] = lambda: math.sqrt(square())
        other = reduction("x * x", y)
        ways["cosine similarity"]["ReductionKernel"] = lambda: dot() / math.sqrt(square() * other())
        ways["covariance"]["ReductionKernel"] = lambda: dot() / x.size - float(x.mean()) * float(y.mean())
    return ways


def answers(x: Any, y: Any, span: float) -> dict[str, float]:
    """Return the answers of CuPy in double precision, a plane at a time."""
    n, sums = x.size, []
    for u, v in zip(x, y, strict=True):
        u, v = u.astype(np.float64), v.astype(np.float64)
        sums.append([float(s.sum()) for s in (u, v, u * u, v * v, u * v)])
    sx, sy, xx, yy, xy = (math.fsum(column) for column in zip(*sums, strict=True))
    mx, my = sx / n, sy / n
    vx, vy, covariance = xx / n - mx * mx, yy / n - my * my, xy / n - mx * my
    return {
        "mean": mx,
        "variance": vx,
        "norm": math.sqrt(xx),
        "dot": xy,
        "covariance": covariance,
        "cosine similarity": xy / math.sqrt(xx) / math.sqrt(yy),
        "structural similarity": _similarity(mx, my, vx, vy, covariance, span),
    }


def _similarity(mx: float, my: float, vx: float, vy: float, covariance: float, span: float) -> float:
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    return (2 * mx * my + c1) / (mx * mx + my * my + c1) * (2 * covariance + c2) / (vx + vy + c2)
