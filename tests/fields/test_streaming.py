"""Fields that are read slab by slab are compressed to what they are compressed to as a whole."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import oracles
import pytest

import hpcblaz as hb
from hpcblaz.backend.blocks import BlockGrid
from hpcblaz.errors import DtypeError
from hpcblaz.fields import streaming
from hpcblaz.fields.dumping import sections_of
from hpcblaz.fields.missing import CellSet

CASES = [oracles.DCT_1D, oracles.DCT_2D, oracles.DCT_3D, oracles.HAAR_4D_DOUBLE, *oracles.FIXED]
SHAPES = {1: (9000,), 2: (2200, 45), 3: (1100, 9, 6), 4: (1100, 3, 2, 5)}


class Lazy:
    """An array that is read by slices, like a variable of a file."""

    def __init__(self, values: Any) -> None:
        self._values = values
        self.shape, self.dtype = values.shape, values.dtype
        self.most = 0

    def __getitem__(self, index: Any) -> Any:
        found = self._values[index]
        self.most = max(self.most, found.size)
        return found


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_SLAB_CELLS", 500)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_slabs_make_the_same_array(case: oracles.Case, missing: bool) -> None:
    x = oracles.field("noise", SHAPES[case.ndim], 3).astype("float64" if case.precision == "float64" else "float32")
    if missing:
        x[x.shape[0] // 3 : x.shape[0] // 2] = np.nan
        x.reshape(-1)[7::91] = -9
    options: dict[str, Any] = {"codec": case.codec, "fill_value": -9 if missing else None}
    if not case.fixed:
        options["tolerance"] = 1e-2
    lazy = Lazy(x)
    a, b = hb.compress(x, **options), hb.compress(lazy, **options)
    if not missing:  # blocks without a number are filled from the block before them, within a slab
        one, other = (sections_of(c, missing) for c in (a, b))
        for name, values in one.items():
            np.testing.assert_array_equal(other[name], values, err_msg=name)
    np.testing.assert_array_equal(b.decompress(), a.decompress())
    loose = 0.5 if missing else 1e-3  # the errors of those fillings are counted
    assert b.error.max_abs == pytest.approx(a.error.max_abs, rel=loose)
    assert b.error.l2 == pytest.approx(a.error.l2, rel=loose)
    assert lazy.most < x.size


def test_targets_of_what_is_read_in_slabs() -> None:
    x = oracles.field("smooth", (120, 40, 20), 3).astype(np.float32)
    for options in ({"relative": 1e-3}, {"psnr": 60}, {"rate": 8}):
        a, b = hb.compress(x, **options), hb.compress(Lazy(x), **options)  # type: ignore[arg-type]
        np.testing.assert_array_equal(a.decompress(), b.decompress())


def test_progress_goes_to_the_end() -> None:
    seen: list[tuple[int, int]] = []
    x = Lazy(oracles.field("smooth", (300, 40), 3))
    hb.compress(x, tolerance=1e-3, progress=lambda done, of: seen.append((done, of)))
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1] > 1


def test_constant_and_empty_fields() -> None:
    for x in (np.full((300, 40), 3.5), np.zeros((0, 5)), np.full((300, 40), np.nan), np.zeros((5, 0), np.int16)):
        np.testing.assert_array_equal(hb.compress(Lazy(x), tolerance=1e-3).decompress(), x)
    with pytest.raises(DtypeError, match="expected dtype"):
        hb.compress(Lazy(np.zeros((4, 4), complex)), tolerance=1)


@pytest.mark.parametrize("shape", [(40, 36, 36), (41, 37, 39), (9, 8, 8), (3, 5, 7), (600, 5)])
def test_slabs_have_the_tiles_of_the_field(shape: tuple[int, ...]) -> None:
    sides = (4, 4, 4)[: len(shape)]
    grid = BlockGrid(shape, sides)
    tiles = []
    for start, stop in streaming.slab_bounds(grid):
        own = BlockGrid((stop - start, *shape[1:]), sides)
        for region, first, count in own.tiles:
            tiles.append((*own.regions[region, 8:], start, first, count))
    for number, region in enumerate(grid.regions):
        counts = grid.tiles[grid.tiles[:, 0] == number, 2].tolist()
        assert [t[-1] for t in tiles if t[:4] == tuple(region[8:])] == counts


def test_variables_of_files(tmp_path: Any) -> None:
    h5py = pytest.importorskip("h5py")
    x = oracles.field("smooth", (90, 40, 20)).astype(np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = x
        a = hb.compress(file["x"], relative=1e-3)
    np.testing.assert_array_equal(a.decompress(), hb.compress(x, relative=1e-3).decompress())


def test_sets_that_are_collected_from_runs() -> None:
    flags = np.random.default_rng(0).random(700_001) < 0.1
    cuts = [0, 5, 262_144, 262_150, 600_000, 700_001]
    runs = (flags[start:stop] for start, stop in itertools.pairwise(cuts))
    assert CellSet.collect(flags.size, runs) == CellSet.of(flags)
