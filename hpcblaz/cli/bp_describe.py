"""What ``hpcblaz bp`` shows of models and of what solving them costs."""

import argparse
from typing import Any

import numpy as np

from hpcblaz.bp.elimination import EliminationPlan
from hpcblaz.bp.models import FactorGraph, PairwiseModel
from hpcblaz.bp.result import Outcome
from hpcblaz.cli.console import Console


def describe_model(model: FactorGraph | PairwiseModel) -> dict[str, Any]:
    """Return what a model is made of; keys are part of the interface.

    Parameters
    ----------
    model : FactorGraph or PairwiseModel

    Returns
    -------
    dict
    """
    graph = model.to_factor_graph()
    cards = graph.cardinalities
    return {
        "variables": graph.variables,
        "factors": graph.factors,
        "edges": graph.edges,
        "largest_arity": graph.arity,
        "least_states": int(cards.min()) if cards.size else None,
        "most_states": int(cards.max()) if cards.size else None,
        "largest_degree": int(graph.degrees.max(initial=0)),
        "table_entries": graph.log_tables.size,
        "zero_entries": int(np.count_nonzero(graph.log_tables == -np.inf)),
    }


def describe_plan(plan: EliminationPlan) -> dict[str, Any]:
    """Return what solving a model exactly costs; keys are part of the interface.

    Parameters
    ----------
    plan : EliminationPlan

    Returns
    -------
    dict
    """
    return {
        "width": plan.width,
        "log2_largest_table": plan.log2_largest,
        "log2_all_tables": plan.log2_total,
        "peak_bytes": plan.peak_bytes,
        "complete": plan.complete,
    }


def show(console: Console, arguments: argparse.Namespace, found: dict[str, Any]) -> None:
    """Print what has been found, as JSON if that is asked for."""
    if arguments.json:
        console.data(found)
        return
    for key, value in found.items():
        for name, entry in value.items() if isinstance(value, dict) else [("", value)]:
            console.line(f"{f'{key} {name}'.strip().replace('_', ' '):<26} {_text(entry)}")


def _text(entry: Any) -> str:
    if entry is None:
        return "-"
    return f"{entry:.10g}" if isinstance(entry, float) else str(entry)


def how(result: Outcome) -> dict[str, Any]:
    """Return how an inference went; keys are part of the interface."""
    return {
        "schedule": result.schedule,
        "status": result.status,
        "residual": result.residual,
        "iterations": result.iterations,
        "message_updates": result.updates,
        "seconds": result.seconds,
        "preparation_seconds": result.preparation_seconds,
        "precision": result.precision,
    }


def not_converged(result: Outcome) -> str:
    """Return what to say of an inference that has reached a limit."""
    return (
        f"not converged after {result.iterations:.0f} iterations, {result.seconds:.3g} s: the largest residual is "
        f"{result.residual:.2g}; answers may be far off"
    )
