"""Arrays too big to be comfortable: compressed with proven error bounds, and computed on while compressed.

Examples
--------
>>> import numpy as np, hpcblaz as hb
>>> x = np.random.default_rng(0).normal(size=(64, 64, 64)).astype(np.float32)
>>> a = hb.compress(x, tolerance=1e-2)
>>> m = a.mean()
>>> bool(abs(m - x.mean(dtype=float)) <= m.error)
True
"""

from hpcblaz import bp, errors
from hpcblaz._version import __version__
from hpcblaz.fields.array import CompressedArray
from hpcblaz.fields.blockwise import (
    BlockField,
    block_mean,
    block_standard_deviation,
    block_variance,
    wasserstein_distance,
)
from hpcblaz.fields.codec import BlockCodec, ToleranceCodec
from hpcblaz.fields.combination import linear_combination
from hpcblaz.fields.compress import compress
from hpcblaz.fields.derivatives import divergence, gradient
from hpcblaz.fields.distributions import Histogram, histogram, value_wasserstein_distance
from hpcblaz.fields.dumping import dumps
from hpcblaz.fields.elementwise import apply
from hpcblaz.fields.extremes import Extremum, argmax, argmin, extremum
from hpcblaz.fields.extremes import maximum as max
from hpcblaz.fields.extremes import minimum as min
from hpcblaz.fields.local_similarity import local_structural_similarity
from hpcblaz.fields.open_field import Field, open_field
from hpcblaz.fields.pieces import concatenate, crop
from hpcblaz.fields.quantiles import median, quantile
from hpcblaz.fields.saving import save
from hpcblaz.fields.scalars import CertifiedFloat, ErrorBound
from hpcblaz.fields.snapshots import CertifiedMatrix, Decomposition, gram, pairwise_distances, pod
from hpcblaz.fields.statistics import (
    cosine_similarity,
    covariance,
    dot,
    mean,
    norm,
    standard_deviation,
    structural_similarity,
    total,
    variance,
)
from hpcblaz.fields.statistics import total as sum
from hpcblaz.fields.storage import load, loads, open
from hpcblaz.fields.xarray_accessor import register_xarray
from hpcblaz.mpi import Layout, scatter
from hpcblaz.mpi.reduce import (
    Pending,
    Reduction,
    allgather,
    allreduce,
    bcast,
    iallgather,
    iallreduce,
    ibcast,
    ireduce_scatter,
    reduce_scatter,
)

__all__ = [
    "BlockCodec",
    "BlockField",
    "CertifiedFloat",
    "CertifiedMatrix",
    "CompressedArray",
    "Decomposition",
    "ErrorBound",
    "Extremum",
    "Field",
    "Histogram",
    "Layout",
    "Pending",
    "Reduction",
    "ToleranceCodec",
    "__version__",
    "allgather",
    "allreduce",
    "apply",
    "argmax",
    "argmin",
    "bcast",
    "block_mean",
    "block_standard_deviation",
    "block_variance",
    "bp",
    "compress",
    "concatenate",
    "cosine_similarity",
    "covariance",
    "crop",
    "divergence",
    "dot",
    "dumps",
    "errors",
    "extremum",
    "gradient",
    "gram",
    "histogram",
    "iallgather",
    "iallreduce",
    "ibcast",
    "ireduce_scatter",
    "linear_combination",
    "load",
    "loads",
    "local_structural_similarity",
    "max",
    "mean",
    "median",
    "min",
    "norm",
    "open",
    "open_field",
    "pairwise_distances",
    "pod",
    "quantile",
    "reduce_scatter",
    "register_xarray",
    "save",
    "scatter",
    "standard_deviation",
    "structural_similarity",
    "sum",
    "total",
    "value_wasserstein_distance",
    "variance",
    "wasserstein_distance",
]

register_xarray(only_if_imported=True)
