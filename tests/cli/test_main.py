"""The command line: every verb, its output, its errors and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hpcblaz as hb
from hpcblaz.cli import main as cli_main
from hpcblaz.cli.main import main
from hpcblaz.errors import FileFormatError

Output = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with x.npy, y.npy, x.f32 and x.hbz."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(12, 9, 10)).astype(np.float32).cumsum(0)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", x[::-1] + np.float32(1))
    x.tofile(tmp_path / "x.f32")
    hb.compress(x, tolerance=1e-2).save(tmp_path / "x.hbz", attributes={"units": "K"})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_json(output: Output, *argv: str) -> Any:
    assert main([*argv, "--json"]) == 0
    captured = output.readouterr()
    assert captured.err == ""
    return json.loads(captured.out)


def fails(output: Output, code: int, *argv: str) -> str:
    assert main(argv) == code
    captured = output.readouterr()
    assert captured.out == ""
    return captured.err


def test_help_and_version(capsys: Output) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hpcblaz {hb.__version__}\n"
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for verb in ("info", "compress", "decompress", "stats", "compare", "plot", "demo", "bench"):
        assert f"    {verb} " in text
        assert main([verb, "--help"]) == 0
        assert capsys.readouterr().out.startswith(f"usage: hpcblaz {verb}")


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["explode"],
        ["compress", "x.npy"],
        ["stats"],
        ["stats", "x.npy", "--tolerance", "a"],
        ["stats", "x.npy", "--tolerance", "1", "--relative", "1"],
        ["compress", "x.f32", "y.hbz", "--shape", "4x4"],
        ["compress", "x.npy", "y.hbz", "--index-dtype", "int64"],
    ],
)
def test_wrong_usage(capsys: Output, argv: list[str]) -> None:
    assert fails(capsys, 2, *argv).startswith("usage: hpcblaz")


def test_info(capsys: Output) -> None:
    found = run_json(capsys, "info")
    assert list(found) == ["hpcblaz", "python", "system", "packages", "cpu", "mpi", "hdf5", "gpu", "kernel_cache"]
    assert found["hpcblaz"] == hb.__version__ and found["packages"]["numpy"] == np.__version__
    assert sorted(found["cpu"]) == ["features", "llvm_name", "model", "threads"]
    assert list(found["mpi"]) == [
        *("mpi4py", "wheel", "launcher", "launched_size", "library", "size", "local_rank", "cuda_aware"),
    ]
    assert found["mpi"]["local_rank"] == 0 and found["mpi"]["cuda_aware"].startswith(("yes: ", "no: "))
    assert sorted(found["gpu"]) == ["devices", "driver", "packages"]
    assert os.path.isdir(found["kernel_cache"])
    assert main(["info"]) == 0
    assert f"numpy              {np.__version__}" in capsys.readouterr().out.replace("packages ", "")


def test_info_of_a_file(capsys: Output, folder: Path) -> None:
    found = run_json(capsys, "info", "x.hbz")
    assert found["shape"] == [12, 9, 10] and found["tolerance"] == 1e-2 and found["attributes"] == {"units": "K"}
    assert found["codec"] == "ToleranceCodec" and found["block_shape"] == [4, 4, 4] and found["parts"] == 1
    assert run_json(capsys, "info", "x.npy")["variable x.npy"]["shape"] == [12, 9, 10]
    assert "no such file" in fails(capsys, 1, "info", "missing.hbz")


def test_compress_and_decompress(capsys: Output, folder: Path) -> None:
    x = np.load("x.npy")
    found = run_json(capsys, "compress", "x.f32", "y.hbz", "--shape", "12,9,10", "--tolerance", "0.01")
    assert list(found) == [
        *("input", "output", "shape", "dtype", "input_bytes", "output_bytes", "ratio", "bits_per_value"),
        *("max_abs_error", "l2_error", "compress_seconds", "compress_gigabytes_per_second", "total_seconds", "ranks"),
    ]
    assert found["max_abs_error"] <= 1e-2 and found["output_bytes"] == os.path.getsize("y.hbz")
    assert found["ratio"] == x.nbytes / found["output_bytes"]
    found = run_json(capsys, "decompress", "y.hbz", "z.npy")
    assert list(found) == [
        *("input", "output", "shape", "dtype", "max_abs_error"),
        *("decompress_seconds", "decompress_gigabytes_per_second", "total_seconds", "ranks"),
    ]
    assert np.abs(np.load("z.npy") - x).max() <= 1e-2
    assert (
        main(["compress", "x.npy", "y.hbz", "--relative", "1e-3", "--transform", "dct", "--block-shape", "4,4,4"]) == 0
    )
    assert "ratio" in capsys.readouterr().out
    assert main(["decompress", "y.hbz", "z.f32"]) == 0
    assert "12 x 9 x 10 values of float32" in capsys.readouterr().out
    assert os.path.getsize("z.f32") == x.nbytes


def test_the_block_codec(capsys: Output, folder: Path) -> None:
    assert main(["compress", "x.npy", "y.hbz", "--index-dtype", "int16", "--keep", "0.5"]) == 0
    a = hb.load("y.hbz")
    assert a.codec == hb.BlockCodec((4, 4, 4), index_dtype="int16", keep=0.5)
    capsys.readouterr()
    assert "got both" in fails(capsys, 1, "compress", "x.npy", "y.hbz", "--index-dtype", "int8", "--rate", "4")
    assert "got none" in fails(capsys, 1, "compress", "x.npy", "y.hbz")


def test_statistics_of_one_array(capsys: Output, folder: Path) -> None:
    x = np.load("x.npy").astype(float)
    truth = {
        "mean": x.mean(),
        "sum": x.sum(),
        "variance": x.var(),
        "standard_deviation": x.std(),
        "norm": np.linalg.norm(x),
    }
    for argv in (["x.hbz"], ["x.npy", "--relative", "1e-3"], ["x.f32", "--shape", "12,9,10", "--tolerance", "0.1"]):
        found = run_json(capsys, "stats", *argv)
        assert list(found) == ["arrays", "statistics", "ranks"]
        keys = ["file", "shape", "dtype", "payload_bytes", "ratio", "max_abs_error", "missing"]
        assert list(found["arrays"][0]) == keys
        assert list(found["statistics"]) == list(truth)
        for name, answer in found["statistics"].items():
            assert list(answer) == ["value", "error", "seconds", "unavailable"]
            assert abs(answer["value"] - truth[name]) <= answer["error"], name
    assert main(["stats", "x.hbz"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("x.hbz: 12 x 9 x 10 float32, ratio") and lines[2].split()[0] == "statistic"
    assert [line.rsplit(maxsplit=4)[0].strip() for line in lines[4:]] == [name.replace("_", " ") for name in truth]


def test_statistics_of_two_arrays(capsys: Output, folder: Path) -> None:
    x, y = (np.load(name).astype(float) for name in ("x.npy", "y.npy"))
    found = run_json(capsys, "stats", "x.hbz", "y.npy", "--tolerance", "1e-2")["statistics"]
    assert list(found) == [
        *("dot", "covariance", "cosine_similarity", "structural_similarity"),
        *("wasserstein_distance", "norm_of_difference"),
    ]
    truth = {
        "dot": (x * y).sum(),
        "covariance": ((x - x.mean()) * (y - y.mean())).mean(),
        "cosine_similarity": (x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y),
        "norm_of_difference": np.linalg.norm(x - y),
    }
    for name, value in truth.items():
        assert abs(found[name]["value"] - value) <= found[name]["error"], name
    main(["compress", "y.npy", "y.hbz", "--index-dtype", "int16"])
    capsys.readouterr()
    found = run_json(capsys, "stats", "x.hbz", "y.hbz")["statistics"]
    assert found["norm_of_difference"]["value"] is None and "one codec" in found["norm_of_difference"]["unavailable"]
    assert found["dot"]["unavailable"] is None
    assert main(["stats", "x.hbz", "y.hbz"]) == 0
    assert "no norm of difference: expected two arrays of one codec" in capsys.readouterr().out


def test_errors_are_one_line(capsys: Output, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("bad.hbz").write_bytes(Path("x.hbz").read_bytes()[:-9])
    cases = {
        "no such file": ["stats", "missing.hbz"],
        "truncated": ["stats", "bad.hbz"],
        "got neither": ["stats", "x.npy"],
        "one shape": ["stats", "x.hbz", "z.hbz"],
        "expected the shape of a raw file": ["compress", "x.f32", "y.hbz", "--rate", "4"],
        "positive": ["compress", "x.npy", "y.hbz", "--tolerance", "-1"],
        "block sides": ["compress", "x.npy", "y.hbz", "--tolerance", "1", "--block-shape", "3,3,3"],
        "got: there is no such": ["decompress", "x.hbz", "nowhere/x.npy"],
        "suffix": ["decompress", "x.hbz", "x.txt"],
    }
    hb.compress(np.zeros((4, 4, 4), np.float32), tolerance=1).save("z.hbz")
    for message, argv in cases.items():
        text = fails(capsys, 1, *argv)
        assert text.startswith("hpcblaz: expected") or ": expected" in text
        assert message in text and text.count("\n") == 1, text
    monkeypatch.setenv("HPCBLAZ_DEBUG", "1")
    text = fails(capsys, 1, "stats", "bad.hbz")
    assert text.startswith("Traceback") and FileFormatError.__name__ in text


def test_unexpected_errors_show_where(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(arguments: Any) -> int:
        raise ZeroDivisionError("one\nover zero")

    monkeypatch.setattr(cli_main.info, "run", fail)
    text = fails(capsys, 1, "info")
    assert text.startswith("hpcblaz: unexpected error: ZeroDivisionError") and "Traceback" in text

    def interrupt(arguments: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_main.info, "run", interrupt)
    assert fails(capsys, 130, "info") == "hpcblaz: interrupted\n"


def python(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *argv]
    return subprocess.run(
        command, text=True, stderr=subprocess.PIPE, timeout=300, **{"stdout": subprocess.PIPE} | options
    )


def test_the_module_runs(folder: Path) -> None:
    found = python("-m", "hpcblaz.cli.main", "stats", "x.hbz")
    assert (found.returncode, found.stderr) == (0, "") and "standard deviation" in found.stdout
    found = python("-m", "hpcblaz.cli.main", "stats", "missing.hbz")
    assert (found.returncode, found.stdout) == (1, "") and found.stderr.count("\n") == 1


def test_a_reader_that_leaves_is_no_error(folder: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        found = python("-m", "hpcblaz.cli.main", "stats", "x.hbz", stdout=write)
    finally:
        os.close(write)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("argv", [["info"], ["--help"]])
def test_a_full_disk_under_the_output_is_an_error(argv: list[str]) -> None:
    with open("/dev/full", "w") as full:
        for options in ([], ["-u"]):
            found = python(*options, "-m", "hpcblaz.cli.main", *argv, stdout=full)
            assert found.returncode == 1 and "expected to write the output, got: No space left" in found.stderr
            assert found.stderr.count("\n") == 1
