"""Graphical models, and what is computed with them.

``models``
    FactorGraph and PairwiseModel; ``checks`` and ``ragged`` are what they are made with.
"""

from hpcblaz.bp.models import FactorGraph, PairwiseModel

__all__ = ["FactorGraph", "PairwiseModel"]
