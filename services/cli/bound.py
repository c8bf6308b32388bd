"""Runs a program that dies when its parent does: `python bound.py PARENT PROGRAM ARGUMENT…`.

The kernel keeps the promise (`PR_SET_PDEATHSIG`, Linux), so it holds when the parent is killed with
SIGKILL. It is a program of its own because a process with threads, such as gRPC's, must not run
Python between fork and exec. Elsewhere than on Linux the program simply starts.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent and become the program."""
    parent = int(sys.argv[1])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit("the parent is gone")
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - what the parent named, without a shell


if __name__ == "__main__":
    main()
