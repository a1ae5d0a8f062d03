"""``hpcblaz bp bench --gpu``: messages a second on a GPU, beside what its memory would allow."""

import sys
from typing import Any

from hpcblaz.bp.gpu_benchmark import run
from hpcblaz.cli.bench import machine
from hpcblaz.cli.console import Console


def measure(console: Console, quick: bool, as_table: bool) -> dict[str, Any]:
    """Measure, print a table if one is wanted, and return all numbers.

    Raises
    ------
    MissingDependencyError, DeviceError
        If there is no card, or what drives it is not installed.
    """
    found: dict[str, Any] = run(quick, lambda text: print(f"... {text}", file=sys.stderr))
    document = {"machine": machine()} | found
    if not as_table:
        return document
    console.table(
        [
            ["model", "schedule", "precision", "million messages a second", "us for all", "of these, floor", "x floor"],
            *(
                [
                    rate["model"],
                    rate["schedule"],
                    rate["precision"],
                    f"{rate['messages_per_second'] / 1e6:.4g}",
                    f"{1e6 * rate['seconds']:.4g}",
                    f"{1e6 * rate['floor_seconds']:.4g}",
                    f"{rate['times_floor']:.3g}",
                ]
                for rate in found["rates"]
            ),
        ]
    )
    console.line()
    console.line(f"{found['card']}; a copy moves {found['copy_bytes_per_second'] / 1e9:.4g} GB/s")
    return document
