"""A program at a terminal, as a person runs it."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from tests.servers import wait_until

#: Makes the terminal on standard input the one whose Ctrl-C the program gets, then becomes the program, which heeds it
#: even if the tests run in the background.
AT_TERMINAL = (
    "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)
CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """What is typed and shown."""

    def __init__(self, keyboard: int, program: "subprocess.Popen[bytes]") -> None:
        self._keyboard = keyboard
        self._program = program
        self.raw = b""

    @property
    def shown(self) -> str:
        """All that was shown, without colours and movements."""
        return CONTROLS.sub("", self.raw.decode(errors="replace"))

    def read(self) -> None:
        """Take what is shown until the program has ended."""
        while True:
            try:
                self.raw += os.read(self._keyboard, 65536)
            except OSError:  # nobody has the terminal any more
                return

    def await_text(self, text: str, seconds: float = 60) -> None:
        wait_until(lambda: text in self.shown or self._program.poll() is not None, seconds)
        assert text in self.shown, self.shown

    def press(self, keys: str) -> None:
        os.write(self._keyboard, keys.encode())

    def wait(self, seconds: float = 60) -> int:
        return self._program.wait(seconds)


@contextmanager
def at_terminal(command: list[str], environment: Mapping[str, str], folder: Path) -> Iterator[Terminal]:
    """Run a program at a terminal of 120 columns and 40 lines."""
    keyboard, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    program = subprocess.Popen(
        [sys.executable, "-c", AT_TERMINAL, *command],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        cwd=folder,
        env={**environment, "TERM": "xterm-256color"},
        start_new_session=True,
    )
    os.close(terminal)
    shown = Terminal(keyboard, program)
    reader = Thread(target=shown.read)
    reader.start()
    try:
        yield shown
    finally:
        if program.poll() is None:
            program.kill()
            program.wait()
        reader.join()
        os.close(keyboard)
