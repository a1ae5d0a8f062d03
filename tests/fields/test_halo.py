"""Halos of compressed fields, and functions of neighbourhoods: for any number of ranks, and both ways to exchange."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hpcblaz as hb
from hpcblaz.errors import (
    ConfigurationError,
    LayoutError,
    PeerError,
    ShapeError,
    ToleranceError,
    UnsupportedOperationError,
)
from hpcblaz.fields import streaming
from hpcblaz.mpi import Communicator

CASES = (oracles.DCT_2D, oracles.IDENTITY_2D, oracles.DCT_3D, oracles.INT8_2D, oracles.DCT_2D_DOUBLE)
SHAPES = {2: [(67, 45), (9, 16), (0, 30)], 3: [(13, 14, 15), (3, 3, 50)]}
WIDTHS: dict[int, list[tuple[Any, Any]]] = {
    2: [(1, True), ([(0, 3), (2, 1)], False), ([70, 4], [True, False]), (0, False)],
    3: [(1, [True, False, True]), ([(2, 0), 1, (0, 40)], True)],
}


def padded(x: Any, width: Any, periodic: Any) -> tuple[Any, Any]:
    """Return a field with what is beyond the faces of its periodic axes, and the pairs of widths."""
    entries = width if isinstance(width, list) else [width] * x.ndim
    pairs = [entry if isinstance(entry, tuple) else (entry, entry) for entry in entries]
    for axis, (pair, wrapped) in enumerate(zip(pairs, np.broadcast_to(periodic, x.ndim), strict=True)):
        if wrapped and x.size:
            x = np.pad(x, [pair if i == axis else (0, 0) for i in range(x.ndim)], mode="wrap")
    return x, pairs


def around(x: Any, layout: hb.Layout | None, width: Any, periodic: Any) -> Any:
    """Return what :func:`hpcblaz.with_halo` is to return of a whole field."""
    wrapped, pairs = padded(x, width, periodic)
    slices = layout.slices if layout is not None else tuple(slice(0, n) for n in x.shape)
    if any(part.start == part.stop for part in slices):
        return x[slices]
    index = []
    for part, (below, above), flag, n in zip(slices, pairs, np.broadcast_to(periodic, x.ndim), x.shape, strict=True):
        if flag:
            index.append(slice(part.start, part.stop + below + above))
        else:
            index.append(slice(max(0, part.start - below), min(n, part.stop + above)))
    return wrapped[tuple(index)]


def with_gaps(x: Any) -> Any:
    x = x.copy()
    x[2:7, 3:11] = np.nan
    x[-1:, -2:] = np.inf
    return x


def compress(x: Any, case: oracles.Case, layout: hb.Layout | None, **more: Any) -> hb.CompressedArray:
    options = {} if case.fixed else {"tolerance": 1e-2}
    part = x if layout is None else layout.local(x)
    return hb.compress(part, codec=case.codec, layout=layout, **options, **more)


@pytest.mark.mpi
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_halos_are_the_values_of_the_whole_field(comm: Communicator, case: oracles.Case) -> None:
    for shape in SHAPES[case.ndim]:
        x = oracles.field("smooth", shape, 3).astype(case.dtypes[0])
        for values in (x, with_gaps(x)) if shape == SHAPES[case.ndim][0] else (x,):
            whole = compress(values, case, None).decompress()
            ways = [tuple(comm.size if i == axis else 1 for i in range(case.ndim)) for axis in range(case.ndim)]
            if comm.size == 4:
                ways[-1] = (2, 2) + (1,) * (case.ndim - 2)  # corners belong to a fourth rank
            for splits in ways:
                layout = hb.Layout(shape, comm, block_shape=case.codec.block_shape, splits=splits)
                a = compress(values, case, layout)
                for width, periodic in WIDTHS[case.ndim]:
                    expected = around(whole, layout, width, periodic)
                    decoded = hb.with_halo(a, width, periodic=periodic)
                    blocks = hb.with_halo(a, width, periodic=periodic, exchange="compressed")
                    np.testing.assert_array_equal(decoded.values, expected)
                    np.testing.assert_array_equal(blocks.values, expected)
                    assert decoded.values.dtype == blocks.values.dtype == a.dtype
                    np.testing.assert_array_equal(decoded.values[decoded.inner], a.decompress())
                    assert (blocks.low, blocks.inner) == (decoded.low, decoded.inner)


@pytest.mark.mpi
def test_halos_of_fields_with_fill_values_and_scaled_ones(comm: Communicator) -> None:
    x = np.rint(50 * oracles.field("smooth", (30, 40))).astype(np.int16)
    x[5:9, 10:30] = -99
    layout = hb.Layout(x.shape, comm, block_shape=(8, 8))
    serial = compress(x, oracles.DCT_2D, None, fill_value=-99)
    a = compress(x, oracles.DCT_2D, layout, fill_value=-99)
    for b, whole in ((a, serial), (0.3 * a - 7, 0.3 * serial - 7)):
        for way in ("decoded", "compressed"):
            got = hb.with_halo(b, 3, periodic=True, exchange=way)
            np.testing.assert_array_equal(got.values, around(whole.decompress(), layout, 3, True))


@given(st.data())
def test_a_halo_on_one_rank_is_numpy_s_padding(data: st.DataObject) -> None:
    x = oracles.field("noise", data.draw(st.sampled_from([(17, 9), (8, 8), (1, 20)])))
    width = [(data.draw(st.integers(0, 30)), data.draw(st.integers(0, 30))) for _ in range(2)]
    a = hb.compress(x, tolerance=1e-3, codec=oracles.DCT_2D_DOUBLE.codec)
    got = hb.with_halo(a, width, periodic=True)
    np.testing.assert_array_equal(got.values, np.pad(a.decompress(), width, mode="wrap"))
    assert got.low == tuple(-below for below, _ in width)


@pytest.mark.mpi
def test_compressed_blocks_are_fewer_bytes(comm: Communicator, monkeypatch: pytest.MonkeyPatch) -> None:
    if comm.size == 1:
        pytest.skip("needs several ranks")
    sent: dict[str, int] = {}
    x = oracles.field("smooth", (64, 512), 1)
    layout = hb.Layout(x.shape, comm, block_shape=(8, 8), splits=(comm.size, 1))
    a = hb.compress(layout.local(x), tolerance=1e-2, layout=layout)
    isend = type(comm._comm).Isend
    for way in ("decoded", "compressed"):
        counted = _Counting(comm._comm, isend)
        monkeypatch.setattr(comm, "_comm", counted)
        hb.with_halo(a, 8, exchange=way)
        monkeypatch.undo()
        sent[way] = counted.bytes
    if layout.local_shape[0]:
        assert 0 < sent["compressed"] < sent["decoded"] / 4


class _Counting:
    def __init__(self, inner: Any, isend: Any) -> None:
        self._inner, self._isend, self.bytes = inner, isend, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def Isend(self, message: Any, *more: Any) -> Any:
        self.bytes += message[0].nbytes
        return self._isend(self._inner, message, *more)


def blur(u: Any) -> Any:
    """Return a smoothing by a fifth of the cell and its neighbours, of a halo of one cell."""
    inner = u[1:-1, 1:-1]
    return (inner + u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:]) / 5


def upwind(u: Any, v: Any) -> Any:
    """Return a function of two fields, of a halo of two cells below the first axis and one above the second."""
    return u[2:, :-1] - 0.5 * u[:-2, :-1] + v[1:-1, 1:] * v[2:, :-1]


@pytest.mark.mpi
def test_stencils_are_those_of_the_decompressed_field_for_any_ranks(
    comm: Communicator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "_SLAB_CELLS", 1)  # many slabs
    for shape in ((1100, 24), (9, 16), (30, 3)):
        x, y = (oracles.field(kind, shape, 3) for kind in ("smooth", "noise"))
        x[3:5, 1:4] = np.nan
        layout = hb.Layout(shape, comm, block_shape=(8, 8))
        for outside, periodic in (("edge", False), (0.5, [False, True]), ("edge", True)):
            options: Any = {"periodic": periodic, "outside": outside, "tolerance": 1e-4}
            serial = [hb.compress(v, tolerance=1e-3) for v in (x, y)]
            split = [hb.compress(layout.local(v), tolerance=1e-3, layout=layout) for v in (x, y)]
            for function, count, width in ((blur, 1, 1), (upwind, 2, [(2, 0), (0, 1)])):
                expected = hb.stencil(function, *serial[:count], width=width, **options)
                values = [serial_field.decompress() for serial_field in serial[:count]]
                pads = [(1, 1), (1, 1)] if function is blur else width
                for axis in range(2):
                    pad = [pads[i] if i == axis else (0, 0) for i in range(2)]
                    mode: Any = {"mode": "edge"} if outside == "edge" else {"constant_values": outside}
                    mode = {"mode": "wrap"} if np.broadcast_to(periodic, 2)[axis] else mode
                    values = [np.pad(v, pad, **mode) for v in values]
                truth = function(*values)
                np.testing.assert_array_equal(np.isnan(expected.decompress()), np.isnan(truth))
                assert np.nanmax(np.abs(expected.decompress() - truth)) <= expected.error.max_abs <= 1e-4
                for way in ("decoded", "compressed"):
                    got = hb.stencil(function, *split[:count], width=width, exchange=way, **options)
                    np.testing.assert_array_equal(got.decompress(), layout.local(expected.decompress()))
                    assert got.error.max_abs == expected.error.max_abs
                    assert got.layout == layout


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_a_lipschitz_constant_bounds_the_error_against_the_original(dtype: str) -> None:
    x = np.rint(3e3 * oracles.field("mixed magnitudes", (40, 33), 2)).astype(dtype)
    a = hb.compress(x, tolerance=2.0)
    for _ in range(3):
        blurred = hb.stencil(blur, a, width=1, periodic=True, tolerance=0.25, lipschitz=1.0)
        truth = oracles.exact(blur(np.pad(x.astype(np.longdouble), 1, mode="wrap")))
        e = np.abs(blurred.decompress().astype(np.longdouble) - truth)
        assert e.max() <= blurred.error.max_abs <= a.error.max_abs + 0.26
        assert np.sqrt((e * e).sum()) <= blurred.error.l2
        assert blurred.dtype == ("float32" if dtype == "float32" else "float64")
        x, a = truth, blurred


def test_repeated_steps_carry_a_bound_that_holds() -> None:
    x = oracles.field("spikes", (64, 40), 1)
    a, u = hb.compress(x, tolerance=1e-3), x
    for step in range(1, 11):
        a = hb.stencil(blur, a, width=1, periodic=True, tolerance=1e-3, lipschitz=1)
        u = blur(np.pad(u, 1, mode="wrap"))
        assert np.abs(a.decompress() - u).max() <= a.error.max_abs <= (step + 1) * 1e-3 * (1 + 1e-9)


def test_a_stencil_without_a_lipschitz_constant_bounds_the_compression_alone() -> None:
    a = hb.compress(oracles.field("noise", (40, 33)), tolerance=0.1)
    b = hb.stencil(lambda u: np.sin(99 * u), a, width=0, tolerance=1e-3)
    assert b.error.max_abs <= 1e-3
    assert np.abs(b.decompress() - np.sin(99 * a.decompress())).max() <= b.error.max_abs
    c = hb.stencil(lambda u: np.sin(99 * u), a, width=0)  # as much as the operand's error, by default
    assert 1e-3 < c.error.max_abs <= 0.1


def test_operands_without_a_bound() -> None:
    a = np.floor(hb.compress(oracles.field("smooth", (20, 20)), tolerance=1e-3))
    assert a.error.max_abs == np.inf
    b = hb.stencil(blur, a, width=1)
    assert b.error.max_abs < 1e-5  # about the decompressed values
    assert np.abs(b.decompress() - blur(np.pad(a.decompress(), 1, mode="edge"))).max() <= b.error.max_abs
    assert hb.stencil(blur, a, width=1, lipschitz=1).error.max_abs == np.inf
    assert hb.stencil(blur, a, width=1, lipschitz=0).error.max_abs < 1e-5


@pytest.mark.parametrize("case", [oracles.INT8_2D, oracles.DCT_2D], ids=lambda case: case.name)
def test_stencils_keep_the_codec(case: oracles.Case) -> None:
    a = compress(oracles.field("smooth", (20, 20)).astype(np.float32), case, None)
    b = hb.stencil(blur, a, width=1)
    assert (b.codec, b.dtype) == (a.codec, np.float32)
    truth = blur(np.pad(a.decompress().astype(float), 1, mode="edge"))
    assert np.abs(b.decompress() - truth).max() <= b.error.max_abs
    assert isinstance(hb.stencil(blur, a, width=1, tolerance=0.1).codec, hb.ToleranceCodec)


def test_stencils_of_blocks_without_cells_and_of_constants() -> None:
    empty = hb.compress(np.zeros((0, 12)), tolerance=1e-3)
    assert hb.stencil(blur, empty, width=1, tolerance=1e-3).shape == (0, 12)
    flat = hb.stencil(blur, hb.compress(np.full((9, 9), 2.5), tolerance=1e-3), width=1)
    np.testing.assert_allclose(flat.decompress(), 2.5, rtol=1e-15)


def test_refusals() -> None:
    a = hb.compress(np.zeros((16, 16)), tolerance=1e-3)
    with pytest.raises(UnsupportedOperationError, match="expected a to be a CompressedArray"):
        hb.with_halo(np.zeros(3), 1)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="'decoded' or 'compressed', got 'fast'"):
        hb.with_halo(a, 1, exchange="fast")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="at least 0 cells"):
        hb.with_halo(a, -1)
    with pytest.raises(UnsupportedOperationError, match="got none"):
        hb.stencil(blur, width=1)
    with pytest.raises(UnsupportedOperationError, match="every operand"):
        hb.stencil(upwind, a, np.zeros((16, 16)), width=1)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="one shape"):
        hb.stencil(upwind, a, hb.compress(np.zeros((16, 8)), tolerance=1e-3), width=1)
    with pytest.raises(
        ShapeError, match=r"shape \(16, 16\) for values of shape \(18, 18\), got float64 of shape \(18, 18\)"
    ):
        hb.stencil(lambda u: u, a, width=1)
    with pytest.raises(ShapeError, match="real numbers"):
        hb.stencil(lambda u: u * 1j, a, width=0)
    with pytest.raises(UnsupportedOperationError, match="lipschitz to be a number"):
        hb.stencil(blur, a, width=1, lipschitz=[1, 2])
    with pytest.raises(UnsupportedOperationError, match="lipschitz to be a number"):
        hb.stencil(blur, a, width=1, lipschitz=-1)
    with pytest.raises(UnsupportedOperationError, match="values outside"):
        hb.stencil(blur, a, width=1, outside="reflect")
    with pytest.raises(ToleranceError, match="positive"):
        hb.stencil(blur, a, width=1, tolerance=0)
    calls = []

    def fails_later(u: Any) -> Any:
        calls.append(u)
        if len(calls) > 1:
            raise ValueError("no more")
        return u + np.arange(16.0)

    with pytest.raises(UnsupportedOperationError, match=r"succeeds again.*no more"):
        hb.stencil(fails_later, a, width=0, tolerance=1e-3)


@pytest.mark.parametrize("way", ["decoded", "compressed"])
def test_the_decompressed_field_is_never_in_memory(monkeypatch: pytest.MonkeyPatch, way: Any) -> None:
    monkeypatch.setattr(streaming, "_SLAB_CELLS", 1 << 14)
    a = hb.compress(oracles.field("smooth", (8192, 256)), tolerance=1e-2)
    options: Any = {"width": 1, "periodic": True, "tolerance": 1e-2, "exchange": way}
    hb.stencil(blur, a, **options)  # compiles
    tracemalloc.start()
    b = hb.stencil(blur, a, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert b.nbytes < peak < 8192 * 256 * 8 / 3


@pytest.mark.mpi
def test_what_fails_on_one_rank_is_raised_on_all(comm: Communicator) -> None:
    if comm.size == 1:
        pytest.skip("needs several ranks")
    layout = hb.Layout((64, 16), comm, block_shape=(8, 8), splits=(comm.size, 1))
    a = hb.compress(np.zeros(layout.local_shape) + comm.rank, tolerance=1e-3, layout=layout)

    def fails_on_the_last(u: Any) -> Any:
        if comm.rank == comm.size - 1:
            raise ValueError("no")
        return blur(u)

    with pytest.raises((ValueError, PeerError), match="no"):
        hb.stencil(fails_on_the_last, a, width=1)
    fixed = hb.compress(np.zeros(layout.local_shape), codec=hb.BlockCodec((8, 8)), layout=layout)
    for b in (a, fixed):  # on one rank, and when all that could be checked has been
        calls: list[Any] = []

        def fails_later(u: Any, seen: list[Any] = calls) -> Any:
            seen.append(u)
            if comm.rank == 0 and len(seen) > 1:
                raise ValueError("no more")
            return blur(u)

        with pytest.raises(UnsupportedOperationError, match="no more"):
            hb.stencil(fails_later, b, width=1)
    with pytest.raises(LayoutError, match="one width"):
        hb.with_halo(a, 1 + comm.rank)
    with pytest.raises(LayoutError, match="one way"):
        hb.with_halo(a, 1, exchange="decoded" if comm.rank else "compressed")
    with pytest.raises((ConfigurationError, ShapeError)):
        hb.with_halo(a, 1, exchange="decoded" if comm.rank else "none")  # type: ignore[arg-type]
