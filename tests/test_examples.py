"""Every example runs, in a small form, and says what its README says it does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hpcblaz as hb
from hpcblaz.bp import write_model
from hpcblaz.mpi import Communicator, SerialCommunicator

pytest.importorskip("matplotlib")
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NAMES = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
PNG = b"\x89PNG\r\n\x1a\n"


def load(name: str) -> Any:
    """Return an example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / name / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, folder: Path, *argv: str) -> Any:
    """Run an example, and return what its `main` does."""
    picture = folder / "picture.png"
    results = load(name).main([*argv, "--output", str(picture)])
    assert picture.read_bytes()[:8] == PNG
    return results


def test_there_are_examples() -> None:
    assert NAMES == [
        "brain_mri",
        "climate_pod",
        "denoise",
        "fission",
        "heat",
        "ldpc",
        "protein",
        "segmentation",
        "shallow_water",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_complete(name: str) -> None:
    readme = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("# ") and f"python examples/{name}/{name}.py" in readme
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", readme, re.DOTALL)
    assert pictures == [f"{name}.png"]
    picture = (EXAMPLES / name / pictures[0]).read_bytes()
    assert picture[:8] == PNG and len(picture) < 150_000
    assert f"[{name}]({name}/README.md)" in (EXAMPLES / "README.md").read_text(encoding="utf-8")


def test_fission(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run("fission", tmp_path, "--side", "24")
    assert capsys.readouterr().out.startswith("SYNTHETIC drop, matter: 15 steps of 48 x 24 x 24 cells")
    for distance in ("L2", "Wasserstein, p = 1", "Wasserstein, p = 8", "Wasserstein, p = 68"):
        step, _, certain = found["matter", 1e-4, distance]
        assert step == 10 and certain, distance


def test_fission_with_the_data_of_the_paper(tmp_path: Path, data_directory: Path) -> None:
    path = data_directory / "fission" / "density_u8.npz"
    if not path.exists():
        pytest.skip(f"no real data: {path} is not there")
    found = run("fission", tmp_path, "--data", str(path))
    with np.load(path) as file:
        n = file["n"].astype(float)[file["step"] >= 690]
    value = found["neutrons", 1e-4, "L2"][1]
    assert abs(float(value) - np.linalg.norm(n[1] - n[0])) <= value.error
    for (_, relative, distance), (step, _, certain) in ((k, v) for k, v in found.items() if k != "picture"):
        assert step == 690 and (certain or relative > 1e-4), distance


def test_shallow_water(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run("shallow_water", tmp_path, "--cells", "32", "--steps", "40")
    drifts = {name: values[-1] for name, values in found["drifts"].items()}
    assert (
        drifts["float32"]
        < 1e-5
        < drifts["compressed, 1e-05"]
        < drifts["compressed, 0.001"]
        < drifts["compressed, 0.01"]
    )
    assert drifts["float32"] < drifts["float16"] < 0.1
    assert found["bits"]["float16"] == 16 and found["bits"]["compressed, 0.0001"] < 16
    assert "own solver" in capsys.readouterr().out


def test_shallow_water_with_the_data_of_the_paper(tmp_path: Path, data_directory: Path) -> None:
    folder = data_directory / "shallow_water"
    if not folder.exists():
        pytest.skip(f"no real data: {folder} is not there")
    found = run("shallow_water", tmp_path, "--cells", "32", "--steps", "40", "--data", str(folder))["paper"]
    for name, (norm, cosine, _) in found.items():
        x, y = (np.load(folder / f"{name}_{dtype}.npy").astype(float) for dtype in ("float16", "float32"))
        assert abs(float(norm) - np.linalg.norm(x - y)) <= norm.error
        truth = (x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y)
        assert abs(float(cosine) - truth) <= cosine.error


def test_the_waves_of_shallow_water_keep_their_mass_and_energy() -> None:
    module = load("shallow_water")

    def energy(state: Any) -> float:
        eta, u, v = state
        kinetic = (u * u + module.after(u * u, 1) + v * v + module.after(v * v, 0)) / 2
        return float(((1 + eta) * kinetic + eta * eta).sum() / 2)

    state = module.start(32, "float64")
    mass, begin = state[0].sum(), energy(state)
    module.VISCOSITY, module.TIME_STEP = 0.0, 0.1
    for _ in range(50):
        state = module.step(state)
    assert abs(state[0].sum() - mass) < 1e-12 and abs(energy(state) / begin - 1) < 2e-4


def test_heat_stays_within_its_bound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = run("heat", tmp_path, "--cells", "48", "--steps", "20")["runs"]
    assert capsys.readouterr().out.startswith("heat on a plate, 48 x 48 cells, 20 steps, ranks: 1")
    for tolerance, found in runs.items():
        assert len(found["error"]) == 21
        assert all(error <= bound for error, bound in zip(found["error"], found["bound"], strict=True))
        assert found["bound"][-1] <= 21 * tolerance * (1 + 1e-9)
        assert found["error"][-1] > 0.01 * tolerance  # it does compress
    assert runs[1e-2]["bits"][-1] < 16


@pytest.mark.mpi
def test_heat_is_the_same_for_any_number_of_ranks(comm: Communicator) -> None:
    module = load("heat")
    module.TOLERANCES = (1e-2,)
    whole = module.follow(SerialCommunicator(), hb.Layout((40, 40)), 5)[0][1e-2]
    layout = hb.Layout((40, 40), comm)
    split = module.follow(comm, layout, 5)[0][1e-2]
    assert (split["error"], split["bound"]) == (whole["error"], whole["bound"])
    np.testing.assert_array_equal(split["last"].decompress(), layout.local(whole["last"].decompress()))


def test_ldpc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run("ldpc", tmp_path, "--bits", "600", "--words", "32")
    assert capsys.readouterr().out.startswith("code of 600 bits and 300 checks")
    good, bad = found["gaussian"][2.5, "marginals"], found["gaussian"][0.5, "marginals"]
    assert good["after"] < 0.01 * good["before"] and good["words"] < 0.2 < 0.8 < bad["words"]
    assert good["iterations"] < bad["iterations"]
    assert found["flips"][0.04, "marginals"]["after"] < 1e-3 < found["flips"][0.1, "marginals"]["after"]


def test_brain_mri(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", rng.random((40, 44, 36)).cumsum(0))
    rows = run("brain_mri", tmp_path, "--small", "--data", str(tmp_path / "a.npy"), str(tmp_path / "b.npy"))
    assert [row[1] for row in rows] == ["int8", "int16", "tolerance", "tolerance"]
    for _, kind, bits, worst in rows:  # the script itself stops where an error is beyond its bound
        assert (worst[:, 0] <= worst[:, 1]).all() and (kind != "int8" or bits < 12)


def test_brain_mri_with_the_templates_of_nilearn(tmp_path: Path) -> None:
    pytest.importorskip("nilearn")
    rows = run("brain_mri", tmp_path, "--small")
    assert all((worst[:, 0] < 1e-2).all() for _, _, _, worst in rows)


def test_climate_pod(tmp_path: Path) -> None:
    t, y, x = np.ogrid[:24, :20, :22]
    series = 280 + 3 * np.sin(t / 3) * np.cos(y / 5) * np.sin(x / 4) + np.cos(t / 2) * (x > 10)
    np.save(tmp_path / "series.npy", series + 0.1 * np.random.default_rng(0).normal(size=series.shape))
    found = run("climate_pod", tmp_path, "--data", str(tmp_path / "series.npy"))
    assert (np.abs(found["values"] - found["exact"]) <= found["bound"]).all()
    assert found["bound"] < found["values"][1] / 10


def test_climate_pod_of_the_air_temperature(tmp_path: Path) -> None:
    pytest.importorskip("iris_sample_data")
    pytest.importorskip("netCDF4")
    found = run("climate_pod", tmp_path, "--steps", "30")
    assert (np.abs(found["values"] - found["exact"]) <= found["bound"]).all()


def test_denoise(tmp_path: Path) -> None:
    results = run("denoise", tmp_path, "--side", "40")
    wrong = {name: np.mean(levels != results["truth"]) for name, levels in results["found"].items()}
    assert wrong["each pixel alone"] > 0.25 and max(wrong["marginals"], wrong["MAP"]) < 0.08
    np.save(tmp_path / "own.npy", np.kron([[0.1, 0.9], [0.8, 0.0]], np.ones((8, 8))))
    found = run("denoise", tmp_path, "--image", str(tmp_path / "own.npy"), "--levels", "2")["found"]["MAP"]
    np.testing.assert_array_equal(found, np.kron([[0, 1], [1, 0]], np.ones((8, 8), int)))


def test_segmentation(tmp_path: Path) -> None:
    results = run("segmentation", tmp_path, "--side", "48")
    wrong = [np.mean(results[name] != results["truth"]) for name in ("alone", "depth")]
    assert wrong[0] > 0.5 and wrong[1] < 0.2 and results["segments"] >= 4
    stripes = load("segmentation").segments(np.array([[1, 1, 2], [2, 1, 2], [1, 1, 2]]))
    assert [np.unique(stripes).size, stripes[0, 0] == stripes[2, 0], stripes[1, 0] == stripes[1, 2]] == [3, True, False]


def test_protein(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = run("protein", tmp_path, "--residues", "12")
    assert capsys.readouterr().out.startswith("MADE-UP protein: 12 residues")
    scores = {name: score for name, (_, score, _) in results["found"].items()}
    assert scores["exact"] == max(scores.values()) and scores["marginals"] >= scores["each residue alone"]
    write_model(tmp_path / "own.uai", results["model"])
    again = run("protein", tmp_path, "--model", str(tmp_path / "own.uai"))["found"]
    assert again["exact"][1] == pytest.approx(scores["exact"])
