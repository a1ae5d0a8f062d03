"""Files of models: what is written is read again, and what is malformed is refused with its line."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bp_models import assignments, factor_graphs
from hypothesis import HealthCheck, given, settings

from hpcblaz.bp import (
    FactorGraph,
    PairwiseModel,
    exact,
    ising,
    read_assignment,
    read_evidence,
    read_evidence_samples,
    read_log_partition,
    read_marginals,
    read_model,
    tokens,
    write_assignment,
    write_evidence,
    write_log_partition,
    write_marginals,
    write_model,
)
from hpcblaz.bp.rnbp import read_rnbp, write_rnbp
from hpcblaz.errors import FileFormatError, ModelError, StorageError

in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
FG = "# a comment\n1\n\n2\n3 1\n2 3\n3\n0 0.5 # the first\n1 2\n5 7\n"
UAI = "BAYES\n3\n2 2 3\n3\n1 0\n2 0 1\n2 1 2\n\n2\n 0.436 0.564\n\n4\n 0.128 0.872 0.920 0.080\n6\n 1 2 3 4 5 6\n"
PAPER = "Nodes:\nA,{0.4,0.2,0.4}\nB,{0.1,0.9}\n\nEdges:\nB,A,{0.1,0.05,0.3,0.15,0.2,0.2}\n\nMarginals:\nA,B\n"


@in_one_folder
@given(model=factor_graphs())
def test_models_are_read_as_they_were_written(tmp_path: Path, model: FactorGraph) -> None:
    states = assignments(model.cardinalities)
    for name in ("m.uai", "m.fg"):
        write_model(tmp_path / name, model)
        found = read_model(tmp_path / name)
        assert found.variables == model.variables and np.array_equal(found.cardinalities, model.cardinalities)
        np.testing.assert_allclose(found.score(states), model.score(states), rtol=1e-12, atol=1e-10)


@in_one_folder
@given(model=factor_graphs(max_arity=2))
def test_pairwise_models_are_read_as_they_were_written(tmp_path: Path, model: FactorGraph) -> None:
    states = assignments(model.cardinalities)
    write_rnbp(tmp_path / "m.txt", model, [f"the {v}" for v in range(model.variables)])
    found, names = read_rnbp(tmp_path / "m.txt")
    assert names == [f"the {v}" for v in range(model.variables)]
    np.testing.assert_allclose(found.score(states), model.score(states), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("name", ["m.uai", "m.fg", "m.txt", "m.uai.gz", "m.fg.xz", "m.txt.gz"])
def test_large_models_of_every_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(tokens, "_PIECE", 1000)  # many pieces, cut in the middle of numbers
    model = ising(20, coupling=3.0)
    write_model(tmp_path / name, model)
    found = read_model(tmp_path / name).to_pairwise()
    assert np.array_equal(found.edges, model.edges)
    np.testing.assert_allclose(found.log_tables, model.log_tables, rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.log_unaries, model.log_unaries, rtol=1e-12)
    magic = {".gz": gzip.decompress, ".xz": lzma.decompress}
    if (unpack := magic.get(Path(name).suffix)) is not None:
        assert unpack((tmp_path / name).read_bytes())


def test_texts_as_others_write_them(tmp_path: Path) -> None:
    path = tmp_path / "any name"
    path.write_text(UAI)
    model = read_model(path)
    assert isinstance(model, FactorGraph) and model.factors == 3
    assert np.exp(model.score([1, 0, 2])) == pytest.approx(0.564 * 0.920 * 3)
    path.write_text(UAI.replace("\n", "\r\n"))
    assert read_model(path).score([1, 0, 2]) == model.score([1, 0, 2])
    path.write_text(FG)
    model = read_model(path)
    assert model.cardinalities.tolist() == [1, 3, 1, 2]  # labels that no factor has get one state
    table = np.zeros((2, 3))
    table.T.flat[[0, 1, 5]] = [0.5, 2, 7]  # the first variable is the fastest
    assert [[np.exp(model.score([0, b, 0, a])) for b in range(3)] for a in range(2)] == pytest.approx(table)
    path.write_text(PAPER)
    pairwise, names = read_rnbp(path)
    assert names == ["A", "B"] and isinstance(read_model(path), PairwiseModel)
    assert np.exp(pairwise.score([2, 1])) == pytest.approx(0.4 * 0.9 * 0.2)


def test_evidence_of_both_layouts(tmp_path: Path) -> None:
    path = tmp_path / "evidence"
    cases = [
        ("", {}), ("0", {}), ("0\n", {}), ("2 5 1 3 0", {5: 1, 3: 0}), ("1\n2 5 1 3 0\n", {5: 1, 3: 0}),
        ("1 5 1", {5: 1}), ("1 0", {}), ("1 1 5 1", {5: 1}), ("1\n1 5 1", {5: 1}), ("0 0", {}),
    ]  # fmt: skip
    for text, expected in cases:
        path.write_text(text)
        assert read_evidence(path) == expected, text
    write_evidence(path, {7: 2, 1: 0})
    assert path.read_text() == "2 7 2 1 0\n" and read_evidence(path) == {7: 2, 1: 0}
    for text, words in [
        ("2 5 1 3", "2 variables"),
        ("1 5 x", "line 1: expected a number, got 'x'"),
        ("2\n1 5 1\n1 5 0", "one sample of evidence, got 2"),
        ("3\n1 5 1\n1 5 0 4", "or so many samples"),
        ("2\n1 5 1\n2 5 1 5 0", "line 3: expected one state of variable 5"),
        ("2 5 1\n5 0", "line 2: expected one state of variable 5, got 1 and 0"),
        ("1 5 0.5", "integers"),
        ("1 -5 0", "integers"),
    ]:
        path.write_text(text)
        with pytest.raises(FileFormatError, match=words):
            read_evidence(path)


def test_evidence_of_several_samples(tmp_path: Path) -> None:
    path = tmp_path / "evidence"
    cases = [
        ("2\n1 5 1\n1 5 0", [{5: 1}, {5: 0}]), ("2 1 5 1 1 5 0", [{5: 1}, {5: 0}]), ("2\n0\n0\n", [{}, {}]),
        ("2\n0\n1 3 1\n", [{}, {3: 1}]), ("2 0 1 3 1\n", [{0: 1, 3: 1}]),  # by the lines only
        ("", [{}]), ("0", [{}]), ("1 5 1", [{5: 1}]),
    ]  # fmt: skip
    for text, expected in cases:
        path.write_text(text)
        assert read_evidence_samples(path) == expected, text
    samples = [{1: 0}, {}, {2: 1, 0: 3}]
    write_evidence(path, samples)
    assert path.read_text() == "3\n1 1 0\n0\n2 2 1 0 3\n" and read_evidence_samples(path) == samples
    write_evidence(path, [{1: 0}])
    assert read_evidence_samples(path) == [{1: 0}]
    with pytest.raises(ModelError, match="none"):
        write_evidence(path, [])


def test_solutions(tmp_path: Path) -> None:
    path = tmp_path / "solution"
    write_marginals(path, [0, 2, 3], [0.25, 0.75, 1.0])
    assert path.read_text() == "MAR\n2 2 0.25 0.75 1 1.0\n"
    for text in (path.read_text(), "MAR\n1\n2 2 0.25 0.75 1 1.0"):
        path.write_text(text)
        offsets, marginals = read_marginals(path)
        assert offsets.tolist() == [0, 2, 3] and marginals.tolist() == [0.25, 0.75, 1.0]
    for text in ("MAR 1 2 0.25 0.75", "MAR 1 1 2 0.25 0.75"):
        path.write_text(text)
        assert read_marginals(path)[1].tolist() == [0.25, 0.75]
    write_log_partition(path, 10 * np.log(10))
    assert path.read_text() == "PR\n10.0\n" and read_log_partition(path) == pytest.approx(10 * np.log(10))
    path.write_text("PR\n1\n-4.5\n")
    assert read_log_partition(path) == pytest.approx(-4.5 * np.log(10))
    path.write_text("PR\n-inf\n")
    assert read_log_partition(path) == -np.inf
    write_assignment(path, [0, 1, 5])
    assert path.read_text() == "MAP\n3 0 1 5\n" and read_assignment(path).tolist() == [0, 1, 5]
    path.write_text("MPE 1 3 0 1 5")
    assert read_assignment(path).tolist() == [0, 1, 5]
    readers: list[tuple[Any, str, str]] = [
        (read_marginals, "MAR 2 2 0.25 0.75 1", "end of the file"),
        (read_marginals, "MAR 1 2 0.25 0.75 3", "expected|more"),
        (read_marginals, "MAR 1 2 0.25 1.75", "probability"),
        (read_marginals, "MAR 1 0", "states of variable 0"),
        (read_marginals, "PR 1", "expected MAR"),
        (read_log_partition, "PR nan", "decimal"),
        (read_log_partition, "PR", "end of the file"),
        (read_log_partition, "PR 3 4", "more numbers"),
        (read_assignment, "MAP 3 0 1", "end of the file"),
        (read_assignment, "MAP 2 0 -1", "states"),
        (read_assignment, "MAP 1 0 3 3", "more numbers"),
    ]
    for reader, text, words in readers:
        path.write_text(text)
        with pytest.raises(FileFormatError, match=words):
            reader(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: expected MARKOV"),
        ("hello", "got 'hello'"),
        (UAI.replace("3\n2 2 3", "3.5\n2 2 3"), "line 2: expected a number of variables.*got 3.5"),
        (UAI.replace("2 2 3", "2 0 3"), "line 3: expected numbers of states.*got 0"),
        (UAI.replace("2 0 1", "2 0 7"), "line 6: expected a variable from 0 to 2, got 7"),
        (UAI.replace("2 0 1", "2 1 1"), "line 6: expected a variable once in a factor, got 1 twice in factor 1"),
        (UAI.replace("2 0 1", "9 0 1"), "line 6: expected the number of variables of factor 1.*got 9"),
        (UAI.replace("0.920", "0.92x"), "line 13: expected a number, got '0.92x'"),
        (UAI.replace("0.920", "0.9.20"), "line 13: expected a number, got '0.9.20'"),
        (UAI.replace("0.920", "-0.920"), "line 13: expected entries of tables, 0 or greater.*got -0.9"),
        (UAI.replace("0.920", "nan"), "line 13: expected entries"),
        (UAI.replace("0.920", "inf"), "line 13: expected entries"),
        (UAI.replace("\n4\n", "\n3\n"), "line 12: expected 4, the entries of the table of factor 1, got 3"),
        (UAI.replace("5 6", "5"), "expected tables and their lengths.*got the end of the file"),
        (UAI + "7\n", "line 16: expected the end of the file, got 1 more"),
        (UAI[:20], "end of the file"),
        ("MARKOV 60" + 60 * " 2" + " 1 60 " + " ".join(map(str, range(60))), "fit in memory"),
        ("MARKOV 1000000000000000 2", "end of the file"),
        (FG.replace("0 0.5", "6 0.5"), "line 8: expected a place in the table, got 6"),
        (FG.replace("0 0.5", "0 -0.5"), "line 8: expected entries"),
        (FG.replace("3 1\n", "3 3\n"), "line 5: expected a variable once"),
        (FG.replace("2 3\n3", "2 0\n3"), "line 6: expected a number of states"),
        (FG + "8\n", "more numbers"),
        (FG[:-4], "end of the file"),
        ("2 \n 1\n0\n2\n1\n0 1\n\n1\n0\n3\n1\n0 1", "line 10: expected variable 0 to have as many states"),
        ("1 1 999999999999 2 0", "label"),
        ("1 1 999999999 2 0", "label"),
        ("1 1 0 999999999 0", "number of states"),
        ("1 2 0 1 99999 99999 0", "tables of 16777216 entries at most"),
        (PAPER.replace("Edges:", "Edgy:"), "line 5: expected name,.weight.*got 'Edgy:'"),
        (PAPER[: PAPER.index("Edges:")], "got no 'Edges:'"),
        (PAPER.replace("B,A,{", "Marginals:\nB,A,{"), "got no 'Marginals:'"),
        (PAPER.replace("B,{0.1", "A,{0.1"), "line 3: expected a node once, got A twice"),
        (PAPER.replace("B,A", "B,C"), "line 6: expected a node of those above, got C"),
        (PAPER.replace("0.15,", ""), "line 6: expected 6 entries, got 5"),
        (PAPER.replace("0.15,", "x,"), "line 6: expected numbers.*got 'x'"),
        (PAPER.replace("0.15,", "-1,"), "line 6: expected numbers.*got '-1'"),
        (PAPER.replace("{0.4", "0.4"), "line 2: expected name,{weight"),
        (PAPER.replace("B,A,{", "A,A,{"), "line 6: expected 9 entries, got 6"),
        (PAPER.replace("B,A,{", "B,B,{").replace("0.15,0.2,", ""), "line 6: expected one edge between two different"),
        (PAPER.replace("\n\nMarg", "\nA,B,{1,1,1,1,1,1}\n\nMarg"), "line 7: expected one edge"),
    ],
)
def test_malformed_models(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "model"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=words) as caught:
        read_model(path)
    assert str(path) in str(caught.value)


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    write_model(tmp_path / "m.uai.gz", ising(20, 1.0))
    write_model(tmp_path / "m.uai.xz", ising(20, 1.0))
    for name in ("m.uai.gz", "m.uai.xz"):
        data = (tmp_path / name).read_bytes()
        for bad in (data[: len(data) // 2], data[:50] + b"\0\0\0\0\0\0\0\0" + data[58:]):
            (tmp_path / name).write_bytes(bad)
            with pytest.raises(FileFormatError, match="expected"):
                read_model(tmp_path / name)
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    with pytest.raises(FileFormatError, match="expected"):
        read_model(tmp_path / "binary")
    with pytest.raises(StorageError, match="no such file"):
        read_model(tmp_path / "none.uai")


def test_what_files_cannot_hold(tmp_path: Path) -> None:
    path = tmp_path / "m.uai"
    write_model(path, ising(2, 1.0))
    before = path.read_bytes()
    for weight in (1e3, -1e3):
        with pytest.raises(ModelError, match="multiply its table"):
            write_model(path, FactorGraph.from_tables([1], [([0], [weight])], log=True))
    assert path.read_bytes() == before
    with pytest.raises(FileFormatError, match=r"ends with \.uai, \.fg, \.txt"):
        write_model(tmp_path / "m.json", ising(2, 1.0))
    for names in (["a", "a"], ["a"], ["a", "b,c"], ["a", " "]):
        with pytest.raises(ModelError, match="different names"):
            write_rnbp(tmp_path / "m.txt", FactorGraph.from_tables([2, 2], []), names)


FRIENDLY = ["CSP_12", "Grids_12", "Pedigree_11", "Promedus_24", "Segmentation_11", "Segmentation_15", "Alchemy_11"]


@pytest.mark.parametrize("name", FRIENDLY)
def test_answers_of_the_competition(data_directory: Path, name: str) -> None:
    path = data_directory / "uai" / "uai2014" / f"{name}.uai"
    if not path.is_file():
        pytest.skip(f"no such model: {path}")
    model, evidence = read_model(path), read_evidence(f"{path}.evid")
    solution = exact(model, evidence=evidence)
    offsets, marginals = read_marginals(f"{path}.MAR")
    assert np.array_equal(offsets, solution.offsets) and solution.marginals is not None
    np.testing.assert_allclose(solution.marginals, marginals, rtol=0, atol=1e-6)
    printed = Path(f"{path}.PR").read_text().split()[1]
    rounding = 0.5 * 10.0 ** -len(printed.partition(".")[2])  # of the file
    assert abs(solution.log_partition - read_log_partition(f"{path}.PR")) / np.log(10) <= rounding + 1e-6


def test_what_comes_before_the_nodes_of_the_paper(tmp_path: Path) -> None:
    path = tmp_path / "model.txt"
    for text, words in [
        (PAPER.replace("Nodes:", "Edges:"), "got no 'Nodes:'"),
        ("\n\nA\n" + PAPER, "line 3: expected 'Nodes:' at the beginning"),
        ("", "got no 'Nodes:'"),
    ]:
        path.write_text(text)
        with pytest.raises(FileFormatError, match=words):
            read_rnbp(path)
