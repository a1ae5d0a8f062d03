"""A Slurm of several nodes on this one machine, for tests of batch scripts: as root, on the loopback, in a folder.

    python tests/slurm/one_machine.py install             Slurm and munge, from the packages of Debian or Ubuntu
    python tests/slurm/one_machine.py start /tmp/slurm    then: export SLURM_CONF=/tmp/slurm/slurm.conf
    python tests/slurm/one_machine.py stop /tmp/slurm     ends the daemons that were started in that folder, no others

Every node is a daemon `slurmd` of its own, with processors that need not be there and cards that are clones of
/dev/null: they can be asked for and are dealt out, and nothing can be computed on them.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

NODES = ("n1", "n2", "n3", "n4")
PROCESSORS = 8  # of a node, as Slurm is told
CARDS = 2  # of a node
PACKAGES = ("slurm-wlm", "munge")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol")
PATIENCE = 90.0  # seconds for all nodes to be there

CONFIGURATION = """\
ClusterName=one-machine
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={controller_port}
# MPICH names shared memory by the number of the job, and what a killed job of an earlier Slurm has left is still there.
FirstJobId={first_job}
# A job that goes back into the queue waits until its credential has expired: by default two minutes.
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
TmpFS={folder}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1
GresTypes=gpu
KillWait=5
ReturnToService=2
SlurmdParameters=config_overrides
"""


def missing() -> str | None:
    """Say why a Slurm cannot be started here; None if it can."""
    if os.getuid():
        return "starting a Slurm needs root"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"no {', '.join(absent)}: apt-get install {' '.join(PACKAGES)}"
    return None


def install() -> str | None:
    """Install what is needed; say why not, if that is so."""
    if missing() is None:
        return None
    if os.getuid() or shutil.which("apt-get") is None:
        return "installing Slurm needs root and apt-get"
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", "-qq", *arguments], env=environment, capture_output=True, text=True)
        if done.returncode:
            return f"apt-get {arguments[0]} failed: {done.stderr.strip()[-500:]}"
    return missing()


class OneMachine:
    """A Slurm whose state, logs and configuration are in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.configuration = self.folder / "slurm.conf"

    def start(self) -> None:
        """Start the daemons, and wait until all nodes are idle."""
        (self.folder / "state").mkdir(parents=True)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        self._configure()
        files = {"key-file": key, "socket": "munge.sock", "pid-file": "munged.pid", "log-file": "munged.log"}
        files["seed-file"] = "munge.seed"
        self._run("munged", "--force", *(f"--{name}={self.folder / file}" for name, file in files.items()))
        self._run("slurmctld", "-i")
        for node in NODES:
            (self.folder / f"spool.{node}").mkdir()
            self._run("slurmd", "-N", node)
        until = time.monotonic() + PATIENCE
        while self.run("sinfo", "--noheader", "--Node", "--format=%T").split() != ["idle"] * len(NODES):
            if time.monotonic() > until:
                logs = "\n".join(path.read_text()[-2000:] for path in self.folder.glob("*.log"))
                raise RuntimeError(f"expected all nodes to be there after {PATIENCE} s:\n{logs}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End what was started, and wait for that."""
        for path in sorted(
            self.folder.glob("*.pid"), key=lambda path: ["slurmd", "slurmc", "munged"].index(path.name[:6])
        ):
            number, name = int(path.read_text()), path.name.partition(".")[0]
            until = time.monotonic() + 10
            while name.encode() in _command(number):
                os.kill(number, signal.SIGTERM if time.monotonic() < until else signal.SIGKILL)
                time.sleep(0.1)
            path.unlink(missing_ok=True)

    def run(self, *command: str) -> str:
        """Run a command of Slurm; return what it prints."""
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=60)
        return done.stdout

    def environment(self) -> dict[str, str]:
        """Return the variables under which commands of Slurm talk to this one."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))}
        return inherited | {"SLURM_CONF": str(self.configuration)}

    def _configure(self) -> None:
        cards = [self.folder / f"card{number}" for number in range(CARDS)]
        for card in cards:
            os.mknod(card, stat.S_IFCHR | 0o666, os.stat("/dev/null").st_rdev)
        ports = _free_ports(1 + len(NODES))
        host = socket.gethostname().partition(".")[0]
        first = 1000 + secrets.randbelow(60_000_000)
        lines = [
            CONFIGURATION.format(folder=self.folder, host=host, controller_port=ports[0], first_job=first),
        ]
        for node, port in zip(NODES, ports[1:], strict=True):
            where = f"NodeHostname={host} NodeAddr=127.0.0.1 Port={port}"
            lines.append(f"NodeName={node} {where} CPUs={PROCESSORS} Gres=gpu:{CARDS} State=UNKNOWN\n")
        lines.append("PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n")
        self.configuration.write_text("".join(lines))
        names = f"NodeName={','.join(NODES)} Name=gpu File={self.folder}/card[0-{CARDS - 1}]\n"
        (self.folder / "gres.conf").write_text(names)

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, env=self.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"expected {command[0]} to start, got exit code {done.returncode}: {done.stderr}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _command(number: int) -> bytes:
    """Return the command line of a process; nothing if there is none."""
    try:
        return Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return b""


def main(arguments: list[str]) -> int:
    if arguments == ["install"]:
        reason = install()
        print(f"no Slurm: {reason}" if reason else "Slurm is installed")
        return 0
    if len(arguments) != 2 or arguments[0] not in ("start", "stop"):
        print(__doc__, file=sys.stderr)
        return 2
    machine = OneMachine(Path(arguments[1]))
    if arguments[0] == "stop":
        machine.stop()
        return 0
    reason = missing()
    if reason:
        print(reason, file=sys.stderr)
        return 1
    machine.start()
    print(f"export SLURM_CONF={machine.configuration}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
