"""Graphical models, and what is computed with them.

``models``
    FactorGraph and PairwiseModel; ``checks``, ``merging`` and ``ragged`` are what they are made with.
``builders``, ``codes``, ``vision``
    Models of grids, chains, trees and random graphs; of codes; of images.
``inference``, ``result``
    Belief propagation and its answers; ``plans``, ``kept``, ``schedules``, ``watch`` and ``answers`` are what they are
    made with.
``comparison``
    How far answers are from each other.
``batches``, ``batch_plans``, ``parity``
    Many models of one shape at once; codes without tables.
``gpu_schedules``, ``gpu_benchmark``
    Schedules of a GPU, and how fast it is.
``partitioned``, ``distributed``
    Models dealt out to ranks, and inference on them: ``partition`` and ``bisection`` say who gets what,
    ``partitioned_plans``, ``partitioned_pairs``, ``partitioned_factors``, ``partitioned_files`` and
    ``partitioned_grids`` make the parts, ``rank_propagation``,
    ``distributed_schedules``, ``distributed_answers``, ``distributed_result`` and ``distributed_checkpoint`` are what
    inference is made with, and ``marginal_store`` is where answers go.
``plotting``, ``benchmark``, ``scaling_benchmark``
    Pictures of how it went, and how fast it is.
``readers``
    Files: ``uai``, ``libdai``, ``rnbp``, and ``solutions``; ``tokens`` and ``writing`` are their numbers.
``networks``
    To networkx and back.
``exact``, ``elimination``
    Exact answers for models of small width, and what they cost.
"""

from hpcblaz.bp.batches import BatchInference, decode, infer_batch
from hpcblaz.bp.builders import chain, grid_edges, ising, potts, random_regular, tree
from hpcblaz.bp.codes import channel, code_model, ldpc, parity_checks
from hpcblaz.bp.comparison import Answers, Comparison, compare, read_answers
from hpcblaz.bp.distributed import infer_partitioned
from hpcblaz.bp.distributed_result import PartitionedInference
from hpcblaz.bp.elimination import EliminationPlan, plan_elimination
from hpcblaz.bp.exact import ExactSolution, exact
from hpcblaz.bp.inferring import infer
from hpcblaz.bp.marginal_store import save_marginals
from hpcblaz.bp.models import FactorGraph, PairwiseModel
from hpcblaz.bp.networks import from_networkx, to_networkx
from hpcblaz.bp.parity import ParityChecks
from hpcblaz.bp.partition import PartitionReport, partition, report_partition
from hpcblaz.bp.partitioned import PartitionedModel, split
from hpcblaz.bp.partitioned_files import read_partitioned
from hpcblaz.bp.partitioned_grids import partitioned_ising
from hpcblaz.bp.plotting import plot
from hpcblaz.bp.readers import read_model, write_model
from hpcblaz.bp.result import History, Inference
from hpcblaz.bp.solutions import (
    read_assignment,
    read_log_partition,
    read_marginals,
    write_assignment,
    write_log_partition,
    write_marginals,
)
from hpcblaz.bp.uai import read_evidence, read_evidence_samples, write_evidence
from hpcblaz.bp.vision import denoise, stereo

__all__ = [
    "Answers",
    "BatchInference",
    "Comparison",
    "EliminationPlan",
    "ExactSolution",
    "FactorGraph",
    "History",
    "Inference",
    "PairwiseModel",
    "ParityChecks",
    "PartitionReport",
    "PartitionedInference",
    "PartitionedModel",
    "chain",
    "channel",
    "code_model",
    "compare",
    "decode",
    "denoise",
    "exact",
    "from_networkx",
    "grid_edges",
    "infer",
    "infer_batch",
    "infer_partitioned",
    "ising",
    "ldpc",
    "parity_checks",
    "partition",
    "partitioned_ising",
    "plan_elimination",
    "plot",
    "potts",
    "random_regular",
    "read_answers",
    "read_assignment",
    "read_evidence",
    "read_evidence_samples",
    "read_log_partition",
    "read_marginals",
    "read_model",
    "read_partitioned",
    "report_partition",
    "save_marginals",
    "split",
    "stereo",
    "to_networkx",
    "tree",
    "write_assignment",
    "write_evidence",
    "write_log_partition",
    "write_marginals",
    "write_model",
]
