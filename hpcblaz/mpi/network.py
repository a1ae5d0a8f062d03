"""Hosts of one machine with links of a limited bandwidth between them: network namespaces of Linux."""

import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from hpcblaz.errors import ConfigurationError

_BURST = 128 * 1024  # bytes that a link takes at once: two of the longest segments that TCP hands over


class Host(NamedTuple):
    """A namespace: what enters it, and what messages between hosts have to go through."""

    prefix: tuple[str, ...]
    interface: str


# MPI libraries would see that all hosts are one machine, and use its memory.
OVER_THE_NETWORK = {
    "MPIR_CVAR_NOLOCAL": "1",
    "UCX_TLS": "tcp,self",
    "UCX_NET_DEVICES": "eth0",
    "FI_PROVIDER": "tcp",
    "FI_TCP_IFACE": "eth0",
    "OMPI_MCA_btl": "tcp,self",
    "OMPI_MCA_btl_tcp_if_include": "eth0",
}


@contextmanager
def hosts(count: int, gigabits: float) -> Iterator[list[Host]]:
    """Make hosts that are joined by a switch, each by a link of so many gigabits a second in each direction.

    They are removed at the end.

    Parameters
    ----------
    count : int
        At most 250.
    gigabits : float
        Bandwidth of each link, 10^9 bits a second.

    Raises
    ------
    ConfigurationError
        If this machine does not permit that, with the reason.

    Examples
    --------
    >>> from hpcblaz.mpi.network import hosts
    >>> with hosts(2, 1.0) as pair:  # doctest: +SKIP
    ...     len(pair)
    2
    """
    if shutil.which("ip") is None or shutil.which("tc") is None:
        raise ConfigurationError("expected the commands ip and tc, got none: install iproute2")
    name = f"hpcblaz-{secrets.token_hex(4)}"
    switch = f"{name}s"
    rate = f"{round(1000 * gigabits)}mbit"
    with ExitStack() as stack:
        _add(stack, switch)
        _run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", switch, "link", "set", "bridge", "up")
        found = []
        for number in range(count):
            host, port = f"{name}h{number}", f"port{number}"
            _add(stack, host)
            _run("ip", "link", "add", "eth0", "netns", host, "type", "veth", "peer", "name", port, "netns", switch)
            _run("ip", "-n", switch, "link", "set", port, "master", "bridge", "up")
            _run("ip", "-n", host, "addr", "add", f"10.231.7.{number + 1}/24", "dev", "eth0")
            for interface in ("lo", "eth0"):
                _run("ip", "-n", host, "link", "set", interface, "up")
            for place, device in ((host, "eth0"), (switch, port)):
                limit = ("rate", rate, "burst", str(_BURST), "latency", "50ms")
                _run("tc", "-n", place, "qdisc", "add", "dev", device, "root", "tbf", *limit)
            found.append(Host(("ip", "netns", "exec", host), "eth0"))
        yield found


def _add(stack: ExitStack, name: str) -> None:
    _run("ip", "netns", "add", name)
    stack.callback(_run, "ip", "netns", "del", name)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise ConfigurationError(f"expected network namespaces to be permitted, got from {' '.join(command)}: {reason}")
