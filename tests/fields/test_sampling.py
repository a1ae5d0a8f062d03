from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import hpcblaz as hb
from hpcblaz.errors import ShapeError
from hpcblaz.fields import sampling
from hpcblaz.fields.sampling import RunningHistogram, section, spectrum
from hpcblaz.fields.views import FieldView

floats = st.floats(width=64)


@given(st.lists(arrays(np.float64, st.integers(0, 30), elements=floats), max_size=4), st.integers(1, 200))
def test_a_histogram_counts_every_number(pieces: list[Any], most: int) -> None:
    histogram = RunningHistogram()
    for piece in pieces:
        histogram.add(piece)
    edges, counts = histogram.bars(max(2, most))
    values = np.concatenate([*pieces, np.zeros(0)])
    values = values[np.isfinite(values)]
    assert counts.sum() == values.size and len(counts) <= max(2, most)
    if values.size:
        widths = np.diff(edges / 4)
        assert edges[0] <= values.min() and values.max() <= edges[-1]
        assert (widths > 0).all()


def test_a_histogram_does_not_depend_on_the_pieces() -> None:
    x = np.random.default_rng(0).normal(size=9000)
    whole = RunningHistogram()
    whole.add(x)
    edges, counts = whole.bars(64)
    np.testing.assert_array_equal(counts, np.histogram(x, edges)[0])
    parts = RunningHistogram()
    for piece in np.array_split(np.sort(x), 7):
        parts.add(piece)
    for found, wanted in zip(parts.bars(64), (edges, counts), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_section_is_the_middle_and_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.arange(5 * 60 * 7.0).reshape(5, 60, 7)
    found = section(FieldView.of("x", x))
    np.testing.assert_array_equal(found.values, x[2])
    assert found.cells == (range(60), range(7)) and found.axes == ("axis 1", "axis 2")
    assert found.place == "axis 0: 2 of 5"
    monkeypatch.setattr(sampling, "_PLANE", 25)
    found = section(FieldView.of("x", x), (-1, slice(None, 9, -1), slice(2, 5)))
    np.testing.assert_array_equal(found.values, x[-1, :9:-2, 2:5])
    assert found.cells == (range(59, 9, -2), range(2, 5)) and found.place == "axis 0: 4 of 5"
    np.testing.assert_array_equal(section(FieldView.of("x", x[0, 0])).values, x[0, 0])


def test_a_section_of_a_compressed_field_has_the_names_of_its_axes() -> None:
    x = np.random.default_rng(0).normal(size=(6, 20, 9))
    a = hb.compress(x, tolerance=1e-2)
    source = FieldView.of("x", a)._replace(attributes={"dimensions": ["time", "y", "x"]})
    found = section(source, (slice(None), 3, slice(None)))
    np.testing.assert_array_equal(found.values, a.decompress()[:, 3])
    assert found.axes == ("time", "x") and found.place == "y: 3 of 20"


@pytest.mark.parametrize(
    "index", [(0, slice(None)), (0, 0, 0), (slice(None),) * 3, (9, slice(None), 0), (0, slice(3, 3), slice(None))]
)
def test_an_index_that_is_no_section(index: Any) -> None:
    with pytest.raises(ShapeError, match="expected"):
        section(FieldView.of("x", np.zeros((4, 5, 6))), index)
    with pytest.raises(ShapeError, match="cells and axes"):
        section(FieldView.of("x", np.zeros((0, 5))))


def test_a_spectrum_shows_a_wave_where_it_is() -> None:
    y, x = np.mgrid[:96, :128]
    wave = 3 * np.sin(2 * np.pi * (0.1 * x + 0.075 * y)) + 1000
    wave[5, 5] = np.nan
    wave_number, power = spectrum(wave)
    assert abs(wave_number[np.argmax(power)] - 0.125) < 0.01
    noise = np.random.default_rng(0).normal(0, 2, (256, 256))
    _, power = spectrum(noise)
    assert abs(power.mean() / 4 - 1) < 0.1  # white noise: its variance, in every wave
    assert spectrum(np.zeros((3, 50)))[0].size == 0 and spectrum(np.full((9, 9), np.nan))[0].size == 0
