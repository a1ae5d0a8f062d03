"""PGMax on models in a file: a program for a Python that has PGMax, which need not have this package.

``PYTHON pgmax_peer.py MODELS.npz OPTIONS`` prints one line of JSON. Without models it says which version there is.
"""

import importlib
import json
import os
import sys
import time
from typing import Any

import numpy as np

_TOLERANCE = 1e-4  # Euclidean distance of two messages of sum 1, as in this package
_CHUNK = 10  # iterations between two looks
_RATE_ITERATIONS = 200


class Solver:
    """PGMax for models of one graph.

    Parameters
    ----------
    cardinalities : numpy.ndarray of int64, shape (variables,)
    edges : numpy.ndarray of int64, shape (edges, 2)
    damping : float
    """

    def __init__(self, cardinalities: Any, edges: Any, damping: float) -> None:
        self._jax = importlib.import_module("jax")
        fgraph, fgroup, infer, vgroup = (
            importlib.import_module(f"pgmax.{n}") for n in ("fgraph", "fgroup", "infer", "vgroup")
        )
        self.cardinalities, self.edges = cardinalities, edges
        self._infer = infer
        self._variables = vgroup.NDVarArray(num_states=cardinalities, shape=(len(cardinalities),))
        graph = fgraph.FactorGraph(variable_groups=[self._variables])
        pairs = cardinalities[edges]
        sizes = pairs.prod(axis=1)
        starts = np.concatenate([[0], np.cumsum(sizes)])
        self._groups = []
        for one, other in np.unique(pairs, axis=0):
            chosen = np.flatnonzero((pairs == [one, other]).all(axis=1))
            places = starts[chosen][:, None] + np.arange(one * other)
            group = fgroup.PairwiseFactorGroup(
                variables_for_factors=[[self._variables[int(a)], self._variables[int(b)]] for a, b in edges[chosen]],
                log_potential_matrix=np.zeros((len(chosen), one, other)),
            )
            graph.add_factors(group)
            self._groups.append((group, places, (one, other)))
        state = graph.bp_state
        self._bp = infer.build_inferer(state, backend="bp")
        context = importlib.import_module("pgmax.infer.inferer").InfererContext(state)
        count, of_edge = context.num_edges, context.edge_indices_for_edge_states
        run, numpy = self._bp.run, self._jax.numpy

        def probabilities(messages: Any) -> Any:
            weights = numpy.exp(messages)
            return weights / numpy.zeros(count).at[of_edge].add(weights)[of_edge]

        def chunk(arrays: Any) -> Any:
            before = run(arrays, num_iters=_CHUNK - 1, damping=damping, temperature=1.0)
            after = run(before, num_iters=1, damping=damping, temperature=1.0)
            steps = (probabilities(after.ftov_msgs) - probabilities(before.ftov_msgs)) / (1 - damping)
            return after, numpy.sqrt(numpy.zeros(count).at[of_edge].add(steps**2).max())

        self._chunk = self._jax.jit(chunk)
        self._many = self._jax.jit(lambda arrays: run(arrays, num_iters=_RATE_ITERATIONS, damping=0.0, temperature=1.0))

    def fits(self, cardinalities: Any, edges: Any) -> bool:
        """Say whether a model has this graph."""
        return np.array_equal(self.cardinalities, cardinalities) and np.array_equal(self.edges, edges)

    def arrays(self, log_unaries: Any, log_tables: Any) -> Any:
        """Return a model of this graph as PGMax has it, at the start."""
        evidence = np.full((len(self.cardinalities), self.cardinalities.max()), -np.inf)
        evidence[np.arange(evidence.shape[1]) < self.cardinalities[:, None]] = log_unaries
        evidence = np.maximum(evidence, -1e6)
        tables = np.maximum(log_tables, -1e6)
        return self._bp.init(
            log_potentials_updates={group: tables[places].reshape(-1, *shape) for group, places, shape in self._groups},
            evidence_updates={self._variables: evidence},
        )

    def solve(self, arrays: Any, time_limit: float) -> tuple[bool, float, int]:
        """Return whether it converged, the seconds, and the iterations; the arrays are kept in `last`."""
        begin, iterations = time.perf_counter(), 0
        while True:
            arrays, residual = self._chunk(arrays)
            iterations += _CHUNK
            converged = float(residual) < _TOLERANCE
            seconds = time.perf_counter() - begin
            if converged or seconds > time_limit:
                self.last = arrays
                return converged, seconds, iterations

    def warm_up(self, arrays: Any) -> None:
        """Compile what is needed."""
        self._jax.block_until_ready(self._chunk(arrays))

    def rate(self, arrays: Any) -> float:
        """Return the messages a second, the best of four."""
        best = np.inf
        for _ in range(5):  # the first one compiles
            begin = time.perf_counter()
            self._jax.block_until_ready(self._many(arrays))
            best = min(best, time.perf_counter() - begin)
        return 2 * len(self.edges) * _RATE_ITERATIONS / best

    def marginals(self) -> list[float]:
        """Return the marginals of the model that was solved last, one variable after the other."""
        found = self._infer.get_marginals(self._bp.get_beliefs(self.last))[self._variables]
        inside = np.arange(self.cardinalities.max()) < self.cardinalities[:, None]
        values: list[float] = np.asarray(found)[inside].astype(float).tolist()
        return values


def main(path: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the answers to what the options ask for."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options["threads"]])
    metadata = importlib.import_module("importlib.metadata")
    importlib.import_module("pgmax.infer")
    found: dict[str, Any] = {"version": f"{metadata.version('pgmax')}, jax {metadata.version('jax')}"}
    found |= {"seconds": [], "iterations": [], "marginals": []}
    solver: Solver | None = None
    with np.load(path) as file:
        for number in range(options["models"]):
            cardinalities, edges = file[f"cardinalities{number}"], file[f"edges{number}"]
            damping = options.get("damping", 0.0)
            fresh = solver is None or not solver.fits(cardinalities, edges)
            if solver is None or fresh:
                solver = Solver(cardinalities, edges, damping)
            arrays = solver.arrays(file[f"log_unaries{number}"], file[f"log_tables{number}"])
            if options.get("rate"):
                found["messages_per_second"] = solver.rate(arrays)
                continue
            if fresh:
                solver.warm_up(arrays)
            converged, seconds, iterations = solver.solve(arrays, options["time_limit"])
            found["seconds"].append(seconds if converged else None)
            found["iterations"].append(iterations if converged else None)
            found["marginals"].append(solver.marginals() if converged else None)
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], json.loads(sys.argv[2]))) + "\n")
