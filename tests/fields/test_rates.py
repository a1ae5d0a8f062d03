from __future__ import annotations

import numpy as np
import oracles
import pytest

from hpcblaz.errors import ShapeError, ToleranceError
from hpcblaz.fields import rates as module
from hpcblaz.fields.rates import middle, rates


def test_rates() -> None:
    x = oracles.field("smooth", (40, 50), 1)
    absent: list[str] = []
    curves = rates(x.astype(np.float32), (1e-1, 1e-3), absent)
    assert next(iter(curves)) == "hpcblaz" and len(curves) + len(absent) == 3
    for points in curves.values():
        assert [point.tolerance for point in points] == [1e-1, 1e-3]
        assert all(point.largest <= point.tolerance * (1 + 1e-6) and point.bits > 0 for point in points)
        assert points[0].bits < points[1].bits and points[0].psnr < points[1].psnr


def test_fields_that_not_every_compressor_takes() -> None:
    x = oracles.field("smooth", (40, 50), 1).astype(np.float16)
    x[3, 3] = np.nan
    assert rates(x, (1e-2,))["hpcblaz"][0].largest <= 1e-2
    assert rates(np.arange(1000, dtype=np.int32), (1e-2,))["hpcblaz"][0].largest <= 1e-2
    with pytest.raises(ToleranceError, match="range"):
        rates(np.ones((4, 4)))
    with pytest.raises(ShapeError, match="numbers"):
        rates(np.full(4, np.nan))


def test_a_great_field_is_cut_to_its_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.arange(1000).reshape(10, 10, 10)
    np.testing.assert_array_equal(x[middle(x.shape)], x)
    monkeypatch.setattr(module, "MOST_CELLS", 200)
    np.testing.assert_array_equal(x[middle(x.shape)], x[4:6])
    monkeypatch.setattr(module, "MOST_CELLS", 50)
    np.testing.assert_array_equal(x[middle(x.shape)], x[4:5, 2:7])
