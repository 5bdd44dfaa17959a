"""The proxy's side of `keeper`: tells it which cores live."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

_KEEPER: Final = str(Path(__file__).with_name("orphans_script.py"))


class Keeping:
    """The keeper process, started with the first core.

    Its end is the end of our side of a pipe, so it needs no stopping. Without it, as
    when somebody killed it, only what cores leave behind is not cleaned up.
    """

    def __init__(self) -> None:
        self._wire = -1

    def started(self, pid: int) -> None:
        """A core lives; it leads a session of its own."""
        if self._wire < 0:
            self._start()
        self._tell(b"+%d\n" % pid)

    def ended(self, pid: int) -> None:
        """It has ended; what it left behind shall end too."""
        self._tell(b"-%d\n" % pid)

    def kill_all(self) -> None:
        """End whatever is left of any core, now; safe from any thread."""
        self._tell(b"!\n")

    def _start(self) -> None:
        out, self._wire = os.pipe()
        try:
            subprocess.Popen(  # noqa: S603 - our own script, and Python
                (sys.executable, "-I", "-S", _KEEPER),
                stdin=out,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # or who reads ours to its end would wait for it
                cwd="/",
                start_new_session=True,
            )
        except OSError:  # no process left: cores are then on their own
            return
        finally:
            os.close(out)

    def _tell(self, line: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self._wire, line)
