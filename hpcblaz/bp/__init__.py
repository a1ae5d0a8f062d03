"""Graphical models, and what is computed with them.

``models``
    FactorGraph and PairwiseModel; ``checks``, ``merging`` and ``ragged`` are what they are made with.
``builders``, ``codes``, ``vision``
    Models of grids, chains, trees and random graphs; of codes; of images.
``exact``, ``elimination``
    Exact answers for models of small width, and what they cost.
"""

from hpcblaz.bp.builders import chain, grid_edges, ising, potts, random_regular, tree
from hpcblaz.bp.codes import channel, code_model, ldpc, parity_checks
from hpcblaz.bp.elimination import EliminationPlan, plan_elimination
from hpcblaz.bp.exact import ExactSolution, exact
from hpcblaz.bp.models import FactorGraph, PairwiseModel
from hpcblaz.bp.vision import denoise, stereo

__all__ = [
    "EliminationPlan",
    "ExactSolution",
    "FactorGraph",
    "PairwiseModel",
    "chain",
    "channel",
    "code_model",
    "denoise",
    "exact",
    "grid_edges",
    "ising",
    "ldpc",
    "parity_checks",
    "plan_elimination",
    "potts",
    "random_regular",
    "stereo",
    "tree",
]
