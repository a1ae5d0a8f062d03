"""Who owns what, and how ranks talk. Importing this does not import mpi4py, let alone initialise MPI."""

from hpcblaz.mpi.cards import CudaSupport, cuda_aware, device_number, local_rank
from hpcblaz.mpi.comm import Communicator, SerialCommunicator, communicator, scatter, world
from hpcblaz.mpi.launch import library_info
from hpcblaz.mpi.layout import Layout

__all__ = [
    "Communicator",
    "CudaSupport",
    "Layout",
    "SerialCommunicator",
    "communicator",
    "cuda_aware",
    "device_number",
    "library_info",
    "local_rank",
    "scatter",
    "world",
]
