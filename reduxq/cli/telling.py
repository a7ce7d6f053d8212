"""How commands say what happens: bars on a terminal, plain lines elsewhere, and JSON for scripts."""

import json
from collections.abc import Iterable, Mapping
from time import monotonic
from typing import Annotated, Any, Final, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from reduxq.errors import ReduxqError
from reduxq.job import Job

SELDOM: Final = 2.0  #: seconds between two plain lines about the same thing

JsonOption = Annotated[bool, typer.Option("--json", help="For scripts: one JSON object on a line for each.")]


def say(told: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Tell what a command did: scripts by an object on a line, people in words, if there are any."""
    if as_json or text:
        typer.echo(json.dumps(told) if as_json else text)


class Teller:
    """Tells progress on standard error and what came of it on standard output, which bars never mix with."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
        self.live = self._console.is_terminal and not as_json
        columns = TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[text]}")
        self._progress = Progress(*columns, console=self._console, disable=not self.live, redirect_stdout=False)
        self._later: list[tuple[str, bool]] = []
        self.failed = False
        self.hint = ""  #: what to do after Ctrl-C

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._progress.stop()
        self.live = False
        if kind is KeyboardInterrupt:
            self._later.append((f"reduxq: interrupted; what was accepted goes on{self.hint}", True))
        for text, is_error in self._later:
            self._print(text, is_error=is_error)

    def line(self, name: str) -> "Line":
        """Return what tells how one thing gets on."""
        return Line(self, self._progress, name)

    def note(self, text: str) -> None:
        """Tell how something gets on, where there are no bars."""
        if not (self.live or self.as_json):
            self._print(text, is_error=True)

    def say(self, told: dict[str, Any], text: str | Iterable[str]) -> None:
        """Tell what came of something, as an object or in lines."""
        for each in [json.dumps(told)] if self.as_json else [text] if isinstance(text, str) else text:
            self._print(each, is_error=False)

    def fail(self, name: str, error: ReduxqError | OSError, told: dict[str, Any] | None = None) -> None:
        """Tell what went wrong with one thing; the command will end with 1."""
        self.failed = True
        code, message = (error.code, error.message) if isinstance(error, ReduxqError) else ("", error.strerror)
        if self.as_json:
            self.say(told or {"name": name, "error": {"code": code, "message": message}}, "")
        self._print(f"reduxq: {name}: {message}", is_error=True)

    def _print(self, text: str, *, is_error: bool) -> None:
        if self.live:
            self._later.append((text, is_error))
        else:
            typer.echo(text, err=is_error)


class Line:
    """One thing that gets on: a bar, or a line now and then."""

    def __init__(self, teller: Teller, progress: Progress, name: str) -> None:
        self._teller = teller
        self._progress = progress
        self._name = name
        self._task = progress.add_task(name, total=None, text="")
        self._said, self._at = "", -SELDOM

    def job(self, job: Job) -> None:
        """Tell how a job is."""
        progress = job.progress
        done, total = (1, 1) if job.finished else (progress.step, progress.steps) if progress else (0, None)
        self.show("failed" if job.error else job.describe(), done, total)

    def show(self, text: str, done: int, total: int | None) -> None:
        """Tell how much of something is done."""
        self._progress.update(self._task, completed=done, total=total, text=text)
        if text != self._said and (done == total or monotonic() - self._at >= SELDOM):
            self._said, self._at = text, monotonic()
            self._teller.note(f"{self._name}: {text}")
