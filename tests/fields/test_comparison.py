"""Every measure of a comparison is within its bound of that of the original data, in extended precision."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import oracles
import pytest
from fields.test_statistics import operands
from hypothesis import given, settings
from hypothesis import strategies as st

import hpcblaz as hb
from hpcblaz.errors import DtypeError, ShapeError
from hpcblaz.fields import views
from hpcblaz.fields.comparison import Comparison, compare
from hpcblaz.fields.views import FieldView
from hpcblaz.mpi import SerialCommunicator

PAIRS = [(oracles.DCT_2D, oracles.DCT_2D), (oracles.DCT_2D, oracles.INT16_2D), (oracles.DCT_2D_DOUBLE, oracles.DCT_2D)]


def compared(a: Any, b: Any) -> Comparison:
    return compare(FieldView.of("a", a), FieldView.of("b", b), SerialCommunicator())


def magnitude(source: Any) -> float:
    return source._magnitude if isinstance(source, hb.CompressedArray) else float(np.abs(source.astype(float)).max())


def check(found: Comparison, x: Any, y: Any, span: float) -> None:
    """Compare with the truth, of all cells."""
    x, y = oracles.exact(x), oracles.exact(y)
    d = y - x
    rms = np.sqrt((d * d).mean())
    reach = x.max() - x.min()
    measures = found.measures
    assert found.cells == x.size and found.missing == (0, 0)
    oracles.assert_holds(measures["largest_difference"], np.abs(d).max())
    oracles.assert_holds(measures["mean_difference"], d.mean())
    oracles.assert_holds(measures["root_mean_square_error"], rms)
    if oracles.norm(x) > 0:
        oracles.assert_holds(measures["relative_l2_error"], oracles.norm(d) / oracles.norm(x))
        if oracles.norm(y) > 0:
            cosine = oracles.dot(x, y) / oracles.norm(x) / oracles.norm(y)
            oracles.assert_holds(measures["cosine_similarity"], cosine)
    psnr = measures["psnr"]
    if math.isfinite(psnr.error):
        oracles.assert_holds(psnr, 20 * np.log10(reach / rms))
    oracles.assert_holds(measures["structural_similarity"], oracles.similarity(x, y, span or 1.0))


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair[0].name}, {pair[1].name}")
@settings(max_examples=60)
@given(data=st.data())
def test_compressed_fields(pair: tuple[oracles.Case, oracles.Case], data: st.DataObject) -> None:
    x, a, y, b = data.draw(operands(*pair))
    check(compared(a, b), x, y, 2 * max(magnitude(a), magnitude(b)))


@settings(max_examples=80)
@given(data=st.data())
def test_plain_fields(data: st.DataObject) -> None:
    x = data.draw(oracles.arrays(oracles.DCT_2D_DOUBLE))
    kind = data.draw(st.sampled_from(oracles.KINDS))
    y = oracles.to_dtype(oracles.field(kind, x.shape, 7), data.draw(st.sampled_from(("float64", "float32", "int16"))))
    check(compared(x, y), x, y, 2 * max(magnitude(x), magnitude(y)))
    a = hb.compress(y, tolerance=0.3 * (magnitude(y) or 1.0), codec=oracles.DCT_2D.codec)
    check(compared(x, a), x, y, 2 * max(magnitude(x), magnitude(a)))


@pytest.mark.parametrize("factor", [1e-200, 1e-160, 1.0, 1e150, 1e200, 1e308])
def test_huge_and_tiny_values(factor: float) -> None:
    x, y = (factor * oracles.field("noise", (40, 7), seed).clip(-1.5, 1.5) for seed in (1, 2))
    found = compared(x, y)
    with np.errstate(over="ignore"):
        assert found.measures["largest_difference"] == np.abs(y - x).max()
    for name, measure in found.measures.items():
        assert not math.isfinite(measure) or measure.error >= 0, name
        if factor == 1e200 and name not in ("largest_difference", "mean_difference"):
            assert measure.error == math.inf, name
    oracles.assert_holds(found.measures["root_mean_square_error"], oracles.norm(oracles.exact(y) - x) / np.sqrt(280.0))


def test_bounds_are_tight() -> None:
    x = oracles.field("smooth", (90, 80), 3).astype(np.float32)
    y = x[::-1].copy()
    a, b = (hb.compress(v, tolerance=1e-3) for v in (x, y))
    for name, measure in compared(x, y).measures.items():  # plain: roundings only
        assert measure.error <= 1e-9 * max(1.0, abs(measure)), name
    found = compared(a, b).measures
    assert found["largest_difference"].error <= 2.1e-3
    assert found["root_mean_square_error"].error <= (a.error.l2 + b.error.l2) / math.sqrt(x.size) * (1 + 1e-6)
    assert found["psnr"].error < 0.05 and found["cosine_similarity"].error < 5e-3


def test_missing_cells_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "SLAB_CELLS", 64)
    x, y = oracles.field("noise", (40, 9), 1), oracles.field("noise", (40, 9), 2)
    p, q = x.copy(), y.copy()
    p[:20] = np.nan  # whole slabs
    p[30, 3], q[30, 3], q[31, :5] = np.inf, np.nan, -np.inf
    there = np.isfinite(p) & np.isfinite(q)
    found = compared(p, q)
    assert found.cells == there.sum() and found.missing == (181, 6)
    d = (y - x)[there]
    oracles.assert_holds(found.measures["root_mean_square_error"], np.sqrt((oracles.exact(d) ** 2).mean()))
    assert found.measures["largest_difference"] == np.abs(d).max()
    nothing = compared(np.full((3, 3), np.nan), np.zeros((3, 3)))
    assert nothing.cells == 0 and nothing.missing == (9, 0) and nothing.measures == {}


def test_equal_fields() -> None:
    x = oracles.field("noise", (20, 20), 1)
    found = compared(x, x).measures
    assert found["largest_difference"] == found["root_mean_square_error"] == found["relative_l2_error"] == 0
    assert found["psnr"] == math.inf and found["psnr"].error == math.inf
    assert abs(found["cosine_similarity"] - 1) <= found["cosine_similarity"].error < 1e-9
    zeros = compared(np.zeros(5), np.zeros(5)).measures
    assert math.isnan(zeros["cosine_similarity"]) and math.isnan(zeros["relative_l2_error"])
    assert zeros["structural_similarity"] == 1


def test_the_similarity_is_that_of_statistics() -> None:
    x = oracles.field("smooth", (60, 50), 1)
    a, b = hb.compress(x, tolerance=1e-2), hb.compress(x[:, ::-1] + 0.5, tolerance=1e-2)
    one, other = compared(a, b).measures["structural_similarity"], hb.structural_similarity(a, b)
    assert one.interval[0] <= other <= one.interval[1] and abs(one - other) < 1e-5


def test_a_fill_value_is_missing() -> None:
    x = oracles.field("noise", (20, 20), 1)
    y = x.copy()
    y[3:5] = -9999
    found = compare(FieldView.of("x", x), FieldView.of("y", y, fill_value=-9999), SerialCommunicator())
    assert found.cells == 360 and found.missing == (0, 40) and found.measures["largest_difference"] == 0


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ShapeError, match=r"one shape, got .*\(3,\)"):
        compared(np.zeros(3), np.zeros((3, 3)))
    with pytest.raises(DtypeError, match="integers or floats"):
        FieldView.of("x", np.zeros(3, complex))
    with pytest.raises(DtypeError, match=r"2\*\*53"):
        compared(np.array([2**60 + 1]), np.array([1]))
