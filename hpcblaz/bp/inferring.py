"""One name for inference: on one rank, or on all ranks of a model that has been dealt out."""

from functools import wraps
from typing import Any, overload

from hpcblaz.bp.distributed import infer_partitioned
from hpcblaz.bp.distributed_result import PartitionedInference
from hpcblaz.bp.inference import infer as infer_whole
from hpcblaz.bp.models import FactorGraph, PairwiseModel
from hpcblaz.bp.partitioned import PartitionedModel
from hpcblaz.bp.result import Inference

__all__ = ["infer"]


@overload
def infer(model: FactorGraph | PairwiseModel, schedule: str = ..., task: str = ..., **options: Any) -> Inference: ...


@overload
def infer(model: PartitionedModel, schedule: str = ..., task: str = ..., **options: Any) -> PartitionedInference: ...


@wraps(infer_whole)
def infer(model: Any, *arguments: Any, **options: Any) -> Any:
    """Infer on one rank, or for a PartitionedModel on all ranks: a collective call, see `infer_partitioned`."""
    if isinstance(model, PartitionedModel):
        return infer_partitioned(model, *arguments, **options)
    return infer_whole(model, *arguments, **options)
