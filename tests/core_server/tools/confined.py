"""A core's way of running a command, as a process of its own: as any user, on any machine.

Reads one line of JSON: `command`, `mechanism`, `world` (the command's stdin, to which the
ids of this process and of the command's reaper are added), `no_user_namespaces` (as in most
containers: this process then cannot make one). Prints what the command printed.
"""

import asyncio
import json
import os
import platform
import struct
import sys

import msgspec

from core_server.tools.base import Command
from core_server.tools.process.command import start
from core_server.tools.sandbox import seccomp

_ALLOW, _EPERM, _ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026
_CLONE_NEWUSER = 0x10000000


def forbid_user_namespaces(machine: str) -> None:
    """What a container engine does to its containers."""
    clone, unshare = {"x86_64": (56, 272), "aarch64": (220, 97)}[machine]
    rules = [(0x20, 0, 0, 0), (0x15, 0, 1, 435), (0x06, 0, 0, _ENOSYS)]  # clone3
    for number in (clone, unshare):
        flagged = [(0x20, 0, 0, 16), (0x45, 0, 1, _CLONE_NEWUSER), (0x06, 0, 0, _EPERM)]
        rules += [(0x15, 0, 4, number), *flagged, (0x06, 0, 0, _ALLOW)]
    rules.append((0x06, 0, 0, _ALLOW))
    seccomp.install(b"".join(struct.pack("=HBBI", *rule) for rule in rules))


async def main() -> None:
    """Run it."""
    asked = json.loads(sys.stdin.readline())
    if asked["no_user_namespaces"]:
        forbid_user_namespaces(platform.machine())
    command = msgspec.convert(asked["command"], Command)
    async with start(command, asked["mechanism"]) as process:
        world = asked["world"]
        reaper_pid = process._reaper.pid  # noqa: SLF001 - nobody else needs to know it
        world["pids"] += [os.getpid(), reaper_pid]
        await process.write(json.dumps(world).encode() + b"\n")
        await process.close_stdin()
        async for output in process:
            stream = sys.stdout if output.stream == "stdout" else sys.stderr
            stream.buffer.write(output.data)
        outcome = await process.wait()
    sys.stdout.flush()
    sys.exit(outcome.exit_code)


if __name__ == "__main__":
    asyncio.run(main())
