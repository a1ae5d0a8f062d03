"""Graphical models, and what is computed with them.

``models``
    FactorGraph and PairwiseModel; ``checks``, ``merging`` and ``ragged`` are what they are made with.
``builders``, ``codes``, ``vision``
    Models of grids, chains, trees and random graphs; of codes; of images.
``inference``, ``result``
    Belief propagation and its answers; ``plans``, ``schedules``, ``watch`` and ``answers`` are what they are made with.
"""

from hpcblaz.bp.builders import chain, grid_edges, ising, potts, random_regular, tree
from hpcblaz.bp.codes import channel, code_model, ldpc, parity_checks
from hpcblaz.bp.inference import infer
from hpcblaz.bp.models import FactorGraph, PairwiseModel
from hpcblaz.bp.result import History, Inference
from hpcblaz.bp.vision import denoise, stereo

__all__ = [
    "FactorGraph",
    "History",
    "Inference",
    "PairwiseModel",
    "chain",
    "channel",
    "code_model",
    "denoise",
    "grid_edges",
    "infer",
    "ising",
    "ldpc",
    "parity_checks",
    "potts",
    "random_regular",
    "stereo",
    "tree",
]
