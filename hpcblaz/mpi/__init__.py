"""Who owns what, and how ranks talk. Importing this does not import mpi4py, let alone initialise MPI."""

from hpcblaz.mpi.comm import Communicator, SerialCommunicator, communicator, scatter, world
from hpcblaz.mpi.launch import library_info
from hpcblaz.mpi.layout import Layout

__all__ = ["Communicator", "Layout", "SerialCommunicator", "communicator", "library_info", "scatter", "world"]
