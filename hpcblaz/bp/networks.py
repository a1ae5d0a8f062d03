"""Models as graphs of networkx, and back."""

from importlib import import_module
from typing import Any

import numpy as np

from hpcblaz.bp.models import FactorGraph, PairwiseModel
from hpcblaz.errors import MissingDependencyError, ModelError

__all__ = ["from_networkx", "to_networkx"]


def to_networkx(model: FactorGraph | PairwiseModel) -> Any:
    """Return a model as a graph of networkx.

    Parameters
    ----------
    model : FactorGraph or PairwiseModel

    Returns
    -------
    networkx.Graph
        Of a PairwiseModel: a node a variable, numbered, with the array ``log_unary``, and edges with ``log_table`` and
        ``first``, the node of the first axis. Of a FactorGraph: a node a variable, with ``states``, and a node
        ``("factor", number)`` a factor, with ``scope`` and ``log_table``, joined to its variables.

    Raises
    ------
    MissingDependencyError
        If networkx is not installed.

    Examples
    --------
    >>> from hpcblaz.bp import ising
    >>> graph = to_networkx(ising(3, coupling=1.0))
    >>> graph.number_of_nodes(), graph.number_of_edges()
    (9, 12)
    """
    graph = _networkx().Graph()
    if isinstance(model, PairwiseModel):
        graph.add_nodes_from((v, {"log_unary": model.log_unary(v)}) for v in range(model.variables))
        for edge, (first, second) in enumerate(model.edges.tolist()):
            graph.add_edge(first, second, log_table=model.log_table(edge), first=first)
        return graph
    graph.add_nodes_from((v, {"states": int(n)}) for v, n in enumerate(model.cardinalities))
    for factor in range(model.factors):
        scope = model.scope(factor).tolist()
        graph.add_node(("factor", factor), scope=tuple(scope), log_table=model.log_table(factor))
        graph.add_edges_from((("factor", factor), variable) for variable in scope)
    return graph


def from_networkx(graph: Any) -> FactorGraph | PairwiseModel:
    """Return a graph of networkx as a model; what `to_networkx` makes, or another with the same attributes.

    Parameters
    ----------
    graph : networkx.Graph
        If a node has ``log_table`` or ``states``, nodes are variables and factors, else all are variables. Nodes may
        have any names; variables are numbered in the order of the graph. Edges need ``first`` only if their table is
        not symmetric.

    Returns
    -------
    FactorGraph or PairwiseModel

    Raises
    ------
    ModelError
        If an attribute is missing, or what they say makes no model.

    Examples
    --------
    >>> from hpcblaz.bp import ising
    >>> model = ising(3, coupling=1.0)
    >>> from_networkx(to_networkx(model)).score([0] * 9) == model.score([0] * 9)
    np.True_
    """
    if graph.is_multigraph():
        raise ModelError("expected a graph with one edge between two nodes, got a multigraph: merge its edges")
    nodes = dict(graph.nodes(data=True))
    if any({"log_table", "states"} & set(attributes) for attributes in nodes.values()):
        variables = {n: a for n, a in nodes.items() if "log_table" not in a}
        number = {node: k for k, node in enumerate(variables)}
        states = [_attribute(a, "states", f"node {n!r}") for n, a in variables.items()]
        factors = []
        for node, attributes in nodes.items():
            if "log_table" in attributes:
                scope = _attribute(attributes, "scope", f"factor {node!r}")
                if set(scope) != set(graph.neighbors(node)) or not set(scope) <= set(variables):
                    raise ModelError(f"expected factor {node!r} to be joined to the variables of its scope, got others")
                factors.append(([number[v] for v in scope], attributes["log_table"]))
        return FactorGraph.from_tables(states, factors, log=True)
    number = {node: k for k, node in enumerate(nodes)}
    unaries = [_attribute(a, "log_unary", f"node {n!r}") for n, a in nodes.items()]
    edges, tables = [], []
    for one, other, attributes in graph.edges(data=True):
        name = f"the edge of {one!r} and {other!r}"
        table = np.asarray(_attribute(attributes, "log_table", name))
        first = attributes.get("first", one)
        if first not in (one, other):
            raise ModelError(f"expected 'first' of {name} to be one of them, got {first!r}")
        if "first" not in attributes and not (table.ndim == 2 and np.array_equal(table, table.T)):
            raise ModelError(f"expected 'first', the node of the first axis of a table, in {name}, got none")
        edges.append((number[first], number[other if first == one else one]))
        tables.append(table)
    return PairwiseModel.from_tables(unaries, np.array(edges, np.int64).reshape(-1, 2), tables, log=True)


def _attribute(attributes: Any, name: str, where: str) -> Any:
    if name not in attributes:
        raise ModelError(f"expected the attribute {name!r} of {where}, got none")
    return attributes[name]


def _networkx() -> Any:
    try:
        return import_module("networkx")
    except ImportError as error:
        raise MissingDependencyError.needs("making a graph of a model", "networkx", "bp") from error
