"""Become another command that ends when the process that started it does.

``python tether.py PARENT_PID COMMAND...``, as a program of its own: code between fork and exec (``preexec_fn``) could
lock up, and ``exec`` keeps what is asked for here. Where there is no ``prctl`` the command runs on without its parent.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  #: from linux/prctl.h


def main() -> None:
    """Ask for SIGKILL at the parent's death, then exec the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent died first")
    os.execvp(command[0], command)  # noqa: S606  a list, no shell


if __name__ == "__main__":
    main()
