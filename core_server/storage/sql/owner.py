"""Who owns a thread, and does that process still live?

A process id alone says nothing: ids are used again, and mean something else in another
container. With the boot, the pid namespace and the start time beside it, a process of
this machine is known to be dead at once; of any other machine only its lease can tell.
"""

import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

LEASE_S = 30
"""An owner that has been silent for so long is taken for dead: three heartbeats."""

HEARTBEAT_S = 10.0
"""How often an owner renews all its leases, by one row."""

SHARED_LEASE_S = 10.0
"""The same where several machines share a store and others wait for the end of a lease."""

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Owner:
    """One open store of one core.

    Attributes:
        owner_id: Drawn at random, so that it is never used again.
        host: The machine's name, for people.
        boot_id: The kernel's; empty where there is none, which no other machine matches.
        pid_space: The namespace in which `pid` means something.
        pid: Process id.
        started_ticks: When the process started, in clock ticks since boot.
        host_id: Whose boots follow each other: the machine's name where only its own
            processes can use the store, else what was configured, or empty. Two machines
            may both be called `localhost`, so a name that nobody vouches for says nothing.
        url: Where other machines reach the host of this core, or empty.
    """

    owner_id: str
    host: str
    boot_id: str
    pid_space: str
    pid: int
    started_ticks: int
    host_id: str = ""
    url: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def is_dead(self, *, seen_from: "Owner", named: bool = False) -> bool:
        """Whether the process is known to be gone; False when that cannot be known.

        Args:
            seen_from: Who asks.
            named: Whether host ids are names that were given to one host each: then what had
                ours, in another container, was this host before it was started anew.
        """
        if not self.boot_id or not seen_from.boot_id:
            return False
        same_host = bool(self.host_id) and self.host_id == seen_from.host_id
        if self.boot_id != seen_from.boot_id:
            return same_host  # our machine, before it was started anew
        if self.pid_space != seen_from.pid_space:
            return named and same_host
        return started_ticks(self.pid) != self.started_ticks


@dataclass(frozen=True, slots=True)
class Place:
    """A host among others.

    Attributes:
        host_id: Its name, if it has one that stays when it is started anew; or empty.
        url: Where others reach it, or empty.
        lease_s: How long the leases of its cores last without a heartbeat, in seconds.
    """

    host_id: str = ""
    url: str = ""
    lease_s: float = SHARED_LEASE_S


def this_process(host_id: str | None = None, url: str = "") -> Owner:
    """A new owner for this process; the host id is the machine's name if none is given."""
    host = socket.gethostname()
    return Owner(
        owner_id=uuid.uuid4().hex,
        host=host,
        boot_id=_line(_PROC / "sys/kernel/random/boot_id"),
        pid_space=_link(_PROC / "self/ns/pid"),
        pid=os.getpid(),
        started_ticks=started_ticks(os.getpid()) or 0,
        host_id=host if host_id is None else host_id,
        url=url,
    )


def started_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when it is dead or a zombie."""
    line = _line(_PROC / str(pid) / "stat")
    fields = line.rpartition(")")[2].split()  # the name in brackets may hold anything
    if len(fields) < 20 or fields[0] in "ZX":
        return None
    return int(fields[19])


def _line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""
