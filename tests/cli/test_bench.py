"""The benchmark: every measurement on tiny fields, and what becomes of the rows."""

import argparse
import importlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcblaz.cli import bench
from hpcblaz.errors import FileFormatError, HpcblazError, MissingDependencyError, StorageError
from hpcblaz.fields import benchmark, peers, processes, sample_fields, timing
from hpcblaz.fields.sample_fields import SampleField

KEYS = {"topic", "case", "quantity", "unit", "ours", "peer", "theirs", "ratio", "better", "target", "aim", "met"}
KEYS |= {"threads", "note"}


def tiny() -> list[SampleField]:
    return [
        SampleField("sines", sample_fields.sines(20)),  # no partial blocks
        SampleField("turbulence", np.ascontiguousarray(sample_fields.turbulence(24)[:22, :, :19])),  # partial ones
    ]


def tiny_settings(**more: Any) -> benchmark.Settings:
    return benchmark.Settings(quick=True, threads=2, side=24, memory_shape=(32, 32, 32), start=("-c", "pass"), **more)


@pytest.fixture(scope="module")
def report() -> benchmark.Report:
    return benchmark.run(tiny_settings(), tiny())


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make packages look as if they were not installed."""
    real_import, real_spec = importlib.import_module, sample_fields.find_spec

    def hidden(*names: str) -> None:
        def import_module(name: str, package: str | None = None) -> Any:
            if name.partition(".")[0] in names:
                raise ImportError(name)
            return real_import(name, package)

        monkeypatch.setattr(importlib, "import_module", import_module)
        monkeypatch.setattr(sample_fields, "find_spec", lambda name: None if name in names else real_spec(name))

    return hidden


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.register(parser.add_subparsers())
    return parser.parse_args(["bench", "fields", *arguments])


@pytest.fixture
def tiny_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the verb measure tiny fields."""
    monkeypatch.setattr(bench, "measure", lambda settings: benchmark.run(tiny_settings(), tiny()))


def test_every_topic_is_measured_and_every_number_is_positive(report: benchmark.Report) -> None:
    assert {row.topic for row in report.rows} == {
        benchmark.SIZE, benchmark.ERROR, benchmark.SPEED, benchmark.OPERATION, benchmark.BOUND, benchmark.PROCESS
    }  # fmt: skip
    for row in report.rows:
        assert 0 < row.ours < math.inf and 0 < row.theirs < math.inf and 0 < row.ratio < math.inf, row
    assert len({row.key for row in report.rows}) == len(report.rows)


def test_errors_are_within_tolerances_and_bounds_hold(report: benchmark.Report) -> None:
    promises = [row for row in report.rows if row.topic == benchmark.ERROR or row.quantity == "all of them hold"]
    assert len(promises) == 2 * 3 + 2
    assert all(row.met for row in promises), [row for row in promises if not row.met]


def test_a_ratio_is_ours_over_theirs_but_for_times() -> None:
    size = timing.lower("t", "c", "q", "bit", 2.0, "p", 8.0, target=0.25)
    speed = timing.higher("t", "c", "q", "GB/s", 2.0, "p", 1.0, target=3.0)
    quick = timing.faster("t", "c", "q", 0.5, "p", 2.0)
    assert (size.ratio, size.met) == (0.25, True)
    assert (speed.ratio, speed.met) == (2.0, False)
    assert (quick.ratio, quick.met, quick.better, quick.ours, quick.unit) == (4.0, None, "higher", 500.0, "ms")


def test_a_race_takes_turns_and_takes_the_median() -> None:
    turns: list[str] = []

    def wait(name: str) -> None:
        turns.append(name)
        np.linalg.norm(np.zeros(300_000))  # long enough not to be called in a row

    times = timing.race({"a": lambda: wait("a"), "b": lambda: wait("b")}, 3)
    assert set(times) == {"a", "b"} and all(seconds > 0 for seconds in times.values())
    assert turns[:4] == ["a", "a", "b", "b"]
    assert turns[4:].index("b") < len(turns[4:]) // 2


def test_numpy_formulations_agree_with_each_other() -> None:
    x, y = sample_fields.sines(20).astype(float) + 3, sample_fields.sines(20, 1, 0.4).astype(float)
    ways = peers.formulations((4, 4, 4), 2.0)
    for name, formulations in ways.items():
        first, *others = (formulation.function(x, y) for formulation in formulations)
        assert others == pytest.approx([first] * len(others), rel=1e-12), name
    assert ways["covariance"][0].function(x, y) == pytest.approx(np.cov(x.ravel(), y.ravel(), ddof=0)[0, 1])
    assert ways["variance"][-1].function(x, y) == pytest.approx(x.var())
    assert peers.structural_similarity(x, x, 2.0) == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [(8, 12, 16), (7, 9, 13)])
def test_block_means(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=shape)
    means = peers.block_means(x, (4, 4, 4))
    assert means.shape == tuple(-(-side // 4) for side in shape)
    assert means[0, 1, 1] == pytest.approx(x[:4, 4:8, 4:8].mean())
    assert means[-1, -1, -1] == pytest.approx(
        x[-(shape[0] % 4 or 4) :, -(shape[1] % 4 or 4) :, -(shape[2] % 4 or 4) :].mean()
    )


def test_absent_peers_are_named(hide: Callable[..., None]) -> None:
    hide("zfpy", "pysz", "threadpoolctl")
    report = benchmark.run(tiny_settings(tolerances=(1e-2,)), tiny()[:1])
    assert [text.partition(":")[0] for text in report.absent] == ["zfpy", "SZ3", "threadpoolctl"]
    assert "pip install 'hpcblaz[bench]'" in report.absent[0]
    assert all(row.ratio > 0 for row in report.rows)
    assert "Left out: zfpy" in "\n".join(bench.table(report, tiny_settings()))


def test_absent_fields_are_named(hide: Callable[..., None]) -> None:
    hide("iris_sample_data", "nilearn")
    absent: list[str] = []
    found = list(sample_fields.sample_fields(True, absent))
    assert [name.partition(" ")[0] for name, _ in found] == ["sines", "k^-5/3"]
    assert [text.partition(":")[0] for text in absent] == ["A1B air temperature", "OSTIA surface temperature", "MNI T1"]


def test_real_fields() -> None:
    pytest.importorskip("netCDF4")
    pytest.importorskip("iris_sample_data")
    air, sea = sample_fields.air_temperature(), sample_fields.surface_temperature()
    assert (air.shape, sea.shape) == ((240, 37, 49), (54, 18, 432))
    assert air.dtype == sea.dtype == np.float32
    assert air.min() > 200 and sea.min() == 0


def test_document_and_table(report: benchmark.Report) -> None:
    document = json.loads(json.dumps(bench.document(report, tiny_settings(), bench.machine())))
    assert {"cpu", "cores", "python", "numpy", "numba", "hpcblaz", "zfpy", "pysz", "date"} <= set(document["machine"])
    assert len(document["rows"]) == len(report.rows)
    for row in document["rows"]:
        assert set(row) == KEYS
        assert row["better"] in ("lower", "higher")
        assert (row["met"] is None) == (row["target"] is None)
    text = "\n".join(bench.table(report, tiny_settings()))
    for topic in ("SIZE", "ERROR", "SPEED OF COMPRESSION", "OPERATIONS", "BOUNDS", "PROCESS", "targets met"):
        assert topic in text
    assert all(row.case in text for row in report.rows)


def test_the_verb_writes_json_and_compares_with_it(
    tiny_run: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.run(parse("--quick", "--json", str(tmp_path / "new.json"))) == 0
    assert "CHANGES" not in capsys.readouterr().out
    old = json.loads((tmp_path / "new.json").read_text())
    changed = next(row for row in old["rows"] if row["topic"] == benchmark.SIZE)
    changed["ratio"] /= 2  # lower is better: this run is worse
    old["rows"][-1]["quantity"] = "something else"
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert bench.run(parse("--quick", "--against", str(tmp_path / "old.json"))) == 0
    out = capsys.readouterr().out
    assert "WORSE by 100.0 %" in out and "1 rows of the earlier run are not in this one" in out


def test_changes_say_which_way_is_better() -> None:
    row = timing.faster("t", "c", "q", 1.0, "p", 4.0)
    assert bench.changes([row], {row.key: 2.0})[1].endswith("2 -> 4  better by 100.0 %")
    assert bench.changes([row], {row.key: 8.0})[1].endswith("8 -> 4  WORSE by 100.0 %")
    assert bench.changes([row], {row.key: 4.0})[1].endswith("4 -> 4")
    assert bench.changes([row], {})[1].endswith("new")


def test_picture(report: benchmark.Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    bench.draw(report.rows, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    bench.draw([row for row in report.rows if row.peer != "SZ3"], tmp_path / "fewer.png")


def test_refusals_come_before_the_work(
    tmp_path: Path, hide: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "measure", lambda settings: pytest.fail("measured"))
    with pytest.raises(StorageError, match="expected a folder"):
        bench.run(parse("--json", str(tmp_path / "none" / "x.json")))
    with pytest.raises(StorageError, match=r"no\.json"):
        bench.run(parse("--against", str(tmp_path / "no.json")))
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(FileFormatError, match="hpcblaz bench --json"):
        bench.run(parse("--against", str(tmp_path / "bad.json")))
    hide("matplotlib")
    with pytest.raises(MissingDependencyError, match="--plot needs matplotlib"):
        bench.run(parse("--plot", str(tmp_path / "x.png")))


def test_a_process_that_fails_is_an_error() -> None:
    with pytest.raises(HpcblazError, match="exit code 3"):
        processes.start_time(["-c", "raise SystemExit(3)"], 1)


def test_a_process_that_fails_costs_no_other_row() -> None:
    settings = tiny_settings(tolerances=(1e-2,))
    settings.start = ("-c", "raise SystemExit(3)")
    report = benchmark.run(settings, tiny()[:1])
    assert benchmark.SIZE in {row.topic for row in report.rows}
    assert "exit code 3" in report.absent[-1]


def test_the_peak_of_memory_is_seen() -> None:
    before = processes._peak_after_reset()
    values = np.ones(8 << 20)
    del values
    assert processes._peak() - before > 32 << 20


def test_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.Path, "read_text", lambda self: (_ for _ in ()).throw(OSError()))
    assert processes._peak() > 1 << 20
    assert bench._processor()
