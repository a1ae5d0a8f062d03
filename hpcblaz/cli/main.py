"""The entry point ``hpcblaz``: verbs, exit codes, and errors in one line.

Exit codes: 0 if all went well, 1 for an error (one line on the standard error, and a traceback if HPCBLAZ_DEBUG=1),
2 for a wrong command line, 75 if stopped by a signal where the same command continues, 130 if interrupted, 143 if ended
by SIGTERM. Under MPI rank 0 prints, and all ranks exit with the same code.
"""

import argparse
import contextlib
import io
import os
import sys
import time
import traceback
from collections.abc import Sequence

from hpcblaz._version import __version__
from hpcblaz.cli import bench, bp, compare, compress, decompress, demo, info, nn, plot, stats
from hpcblaz.cli.console import Console, finish_output
from hpcblaz.cli.stopping import Terminated, end_on_signals
from hpcblaz.errors import HpcblazError, StoppedError
from hpcblaz.mpi import Communicator, world
from hpcblaz.mpi.launch import load_mpi

_VERBS = (info, compress, decompress, stats, compare, plot, bp, nn, demo, bench)
_STOPPED = 75  # of sysexits.h: try again
_CLEANING = 2.0  # seconds for rank 0, which holds what is half written, before another rank ends the job
_RANK_VARIABLES = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="hpcblaz",
        description="Scientific fields compressed with proven error bounds, and computed on while compressed.",
        epilog="Every verb works the same under mpirun and srun: mpirun -n 4 hpcblaz stats field.npy --tolerance 1e-3",
    )
    top.add_argument("--version", action="version", version=f"hpcblaz {__version__}")
    subparsers = top.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in _VERBS:
        verb.register(subparsers)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Without the program's name. Default: ``sys.argv[1:]``.

    Returns
    -------
    int
        The exit code.

    Examples
    --------
    >>> from hpcblaz.cli.main import main
    >>> main(["--version"]) == 0  # doctest: +SKIP
    True
    """
    try:
        comm = world()
    except HpcblazError as error:
        if next((os.environ[name] for name in _RANK_VARIABLES if name in os.environ), "0") == "0":
            _report(error)
        return 1
    with end_on_signals():
        return _run(argv, comm)


def _run(argv: Sequence[str] | None, comm: Communicator) -> int:
    try:
        arguments = _parse(argv, comm)
        if isinstance(arguments, int):
            return arguments
        code = int(arguments.run(arguments))
        finish_output(comm)
        return code
    except HpcblazError as error:  # raised on every rank
        if comm.rank == 0:
            _report(error)
        return _STOPPED if isinstance(error, StoppedError) else 1
    except (KeyboardInterrupt, Terminated) as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        if comm.rank == 0:
            print(f"hpcblaz: {'interrupted' if interrupted else 'ended by SIGTERM'}", file=sys.stderr)
        else:
            time.sleep(_CLEANING)
        return _abort(comm, 130 if interrupted else 143)
    except BaseException as error:  # noqa: BLE001  on one rank only, for all we know: the others must not wait for it
        where = f" on rank {comm.rank} of {comm.size}" if comm.size > 1 else ""
        print(f"hpcblaz: unexpected error{where}: {type(error).__name__}: {error}", file=sys.stderr)
        traceback.print_exc()
        return _abort(comm, 1)


def _parse(argv: Sequence[str] | None, comm: Communicator) -> argparse.Namespace | int:
    """Return the arguments, or the exit code if there is nothing to do; only rank 0 prints help and usage."""
    said, complained = io.StringIO(), io.StringIO()  # argparse itself would swallow what goes wrong with printing
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
            return parser().parse_args(argv)
    except SystemExit as request:
        code = request.code if isinstance(request.code, int) else 0
    Console(comm).text(said.getvalue())
    if comm.rank == 0:
        with contextlib.suppress(BrokenPipeError):
            sys.stderr.write(complained.getvalue())
    finish_output(comm)
    return code


def _report(error: HpcblazError) -> None:
    with contextlib.suppress(BrokenPipeError):
        if os.environ.get("HPCBLAZ_DEBUG") == "1":
            traceback.print_exception(error)
        print("hpcblaz: " + " ".join(str(error).split()), file=sys.stderr)


def _abort(comm: Communicator, code: int) -> int:
    if comm.size > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        load_mpi().COMM_WORLD.Abort(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
