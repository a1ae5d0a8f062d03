"""The tables of ``hpcblaz bp bench``, as text and as Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hpcblaz.bp.benchmark_rows import SCHEDULES

__all__ = ["markdown", "tables"]

_GOOD = 0.1  # errors above it are no answers: a model on which all schedules are there says nothing of them

Table = list[list[str]]


def tables(found: Mapping[str, Any]) -> Iterator[tuple[str, Table]]:
    """Yield the tables of what has been measured, each with its title; the first row has the titles of the columns.

    Parameters
    ----------
    found : mapping
        As `hpcblaz.bp.benchmark.run` returns it.
    """
    yield "Millions of messages a second", _rates(found["rates"])
    if found["memory"]:
        yield "Memory at the peak, in a process of its own", _memory(found["memory"])
    yield (
        "Models that converged, and medians over these: milliseconds in all, without putting the model in order, and "
        "iterations; the difference of marginals from those of auto",
        _cases(found["cases"]),
    )
    if found["quality"]:
        yield "Mean absolute error of marginals, in brackets where it did not converge", _errors(found["quality"])
        yield "log10 Z minus the exact one, in brackets where it did not converge", _partitions(found["quality"])
        yield "Milliseconds, in brackets where it did not converge", _times(found["quality"])
        yield "Families: mean over the models of the mean absolute error of marginals", _families(found["quality"])


def markdown(title: str, rows: Table) -> str:
    """Return a table as Markdown.

    Examples
    --------
    >>> print(markdown("Sizes", [["name", "bytes"], ["a", "7"]]))
    ### Sizes
    <BLANKLINE>
    | name | bytes |
    |---|---:|
    | a | 7 |
    <BLANKLINE>
    """
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---|" + "---:|" * (len(rows[0]) - 1))
    return "\n".join([f"### {title}", "", *lines, ""])


def _rates(rows: Sequence[Mapping[str, Any]]) -> Table:
    titles = ["model", "schedule", "precision", "million messages a second"]
    return [
        titles,
        *([row["model"], row["who"], row["precision"], f"{row['messages_per_second'] / 1e6:.0f}"] for row in rows),
    ]


def _memory(rows: Sequence[Mapping[str, Any]]) -> Table:
    titles = ["model", "schedule", "precision", "model, MiB", "inference, MiB", "bytes a message state"]
    return [
        titles,
        *(
            [
                row["model"],
                row["schedule"],
                row["precision"],
                f"{row['model_bytes'] / 2**20:.1f}",
                f"{row['inference_bytes'] / 2**20:.1f}",
                f"{row['bytes_a_state']:.1f}",
            ]
            for row in rows
        ),
    ]


def _cases(rows: Sequence[Mapping[str, Any]]) -> Table:
    titles = ["models", "schedule", "converged", "ms", "ms of messages", "iterations", "difference"]
    return [
        titles,
        *(
            [
                row["models"],
                row["who"],
                f"{row['converged']}/{row['of']}",
                _milliseconds(row["seconds"]),
                _milliseconds(row["propagation_seconds"]),
                "" if row["iterations"] is None else f"{row['iterations']:.1f}",
                "" if row["difference"] is None else f"{row['difference']:.1g}",
            ]
            for row in rows
        ),
    ]


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.3g}"


def _errors(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the errors, and that of auto over the least one of the other schedules that converged."""
    table = _by_model(rows, "error", ".2g")
    table[0].append("auto / best")
    for line in table[1:]:
        ours = [row for row in rows if row["model"] == line[0] and row["error"] is not None]
        auto = [row["error"] for row in ours if row["schedule"] == "auto"]
        others = [row["error"] for row in ours if row["schedule"] != "auto" and row["status"] == "converged"]
        good = auto and others and 0 < min(others) < _GOOD
        line.append(f"{auto[0] / min(others):.3g}" if good else "")
    return table


def _partitions(rows: Sequence[Mapping[str, Any]]) -> Table:
    return _by_model(rows, "log10_partition", ".2g")


def _times(rows: Sequence[Mapping[str, Any]]) -> Table:
    return _by_model([dict(row) | {"milliseconds": 1e3 * row["seconds"]} for row in rows], "milliseconds", ".3g")


def _by_model(rows: Sequence[Mapping[str, Any]], key: str, form: str) -> Table:
    table = [["model", *SCHEDULES]]
    for model in dict.fromkeys(row["model"] for row in rows):
        cells = {row["schedule"]: _cell(row, key, form) for row in rows if row["model"] == model}
        table.append([model, *(cells.get(schedule, "") for schedule in SCHEDULES)])
    return table


def _cell(row: Mapping[str, Any], key: str, form: str) -> str:
    if row[key] is None:
        return ""
    text = format(row[key], form)
    return text if row["status"] == "converged" else f"({text})"


def _families(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = [["family", "models", *SCHEDULES]]
    for family in dict.fromkeys(row["family"] for row in rows):
        ours = [row for row in rows if row["family"] == family and row["error"] is not None]
        means = []
        for schedule in SCHEDULES:
            errors = [row["error"] for row in ours if row["schedule"] == schedule]
            means.append(f"{sum(errors) / len(errors):.2g}" if errors else "")
        table.append([family, str(len({row["model"] for row in ours})), *means])
    return table
