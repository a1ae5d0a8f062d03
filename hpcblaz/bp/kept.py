"""Plans of small models, kept with the model: the next inference of the same model need not prepare it again."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.bp.models import FactorGraph, PairwiseModel
from hpcblaz.bp.plans import Prepared, prepare

_MOST_BYTES = 1 << 22  # of a model; larger ones take their time for messages, and memory counts


@dataclass(frozen=True, eq=False)
class _Kept:
    """A plan, and what the model was like: arrays are shared with whoever made the model, and might have changed."""

    arrays: tuple[NDArray[Any], ...]
    prepared: Prepared


def prepare_once(model: FactorGraph | PairwiseModel, precision: str) -> Prepared:
    """Return what `prepare` does, from the last time if the model is small and has not changed.

    Parameters
    ----------
    model : FactorGraph or PairwiseModel
    precision : {'float32', 'float64'}

    Raises
    ------
    ModelError
        If all states of a variable are impossible by themselves.
    """
    arrays = tuple(getattr(model, field.name) for field in fields(model))
    if sum(array.nbytes for array in arrays) > _MOST_BYTES:
        return prepare(model, precision)
    kept = model.kept.get(precision)
    if kept is None or not all(map(np.array_equal, arrays, kept.arrays)):
        kept = _Kept(tuple(array.copy() for array in arrays), prepare(model, precision))
        model.kept[precision] = kept
    plan = kept.prepared.plan
    if plan.family == "binary":
        return kept.prepared
    # Which variable has no possible state is written there: others must not see it
    return replace(kept.prepared, plan=replace(plan, model=(*plan.model[:-1], np.zeros_like(plan.model[-1]))))
