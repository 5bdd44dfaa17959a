"""Become the core: the last steps between our fork and the core's program.

Run as a script, `python -I -S launch.py COMMAND [ARG...]`, because what must happen in
the child cannot happen safely after a fork in a process with threads: unblock the
signals that the proxy keeps blocked, undo Python's ignoring of two (a shell's pipeline
needs SIGPIPE), and ask the kernel for SIGTERM when the proxy dies, however it dies. The
core has its own session already. Imports nothing of ours.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Replace this process by the command; exit code 127 when that cannot be."""
    parent = int(sys.argv[1])
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(143)  # the proxy died before it could be asked
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    # uvloop leaves second descriptors of the pipes: with them nobody would ever see an end.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    try:
        os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - the operator's own command
    except OSError as error:
        os.write(2, f"cannot start {sys.argv[2]}: {error.strerror}\n".encode())
        os._exit(127)


if __name__ == "__main__":
    main()
