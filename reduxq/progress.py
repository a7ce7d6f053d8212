"""How far a job is, on one line."""

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from reduxq.client import AiRecord


class ProgressLine:
    """One live line on a terminal; elsewhere a plain line for each news."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said = ""
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        # No thread that refreshes: the stack's processes must be started by the only one there is.
        self._progress = Progress(*columns, console=console, auto_refresh=False, disable=not console.is_terminal)
        self._task = self._progress.add_task("submitted", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, record: AiRecord) -> bool:
        """Show how far the job is; return whether that is news."""
        text, step, steps = describe(record)
        self._progress.update(self._task, description=text, completed=step, total=steps, refresh=True)
        is_news = text != self._said
        if is_news and not self._console.is_terminal:
            self._console.print(text)
        self._said = text
        return is_news


def describe(record: AiRecord) -> tuple[str, int, int | None]:
    """Return a job's state in words, the steps done and the steps there are, if known."""
    extra = record["additionalData"]
    if record["status"] != "PROCESSING":
        return record["status"].lower(), 1, 1
    if progress := extra["progress"]:
        return f"running, step {progress['step']} of {progress['steps']}", progress["step"], progress["steps"]
    if extra["queuePosition"] is not None:
        return f"queued, position {extra['queuePosition']}", 0, None
    return "running, loading the picture", 0, None
