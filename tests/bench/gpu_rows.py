"""What was measured, as rows of a table and as JSON."""

import json
import platform
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from tests.bench.gpu_meter import Pace

LARGE, SMALL = "1 MP", "0.25 MP"  #: at the tiny scale they are smaller


class Point(NamedTuple):
    """Where a variant is measured."""

    size: str  #: :data:`LARGE` or :data:`SMALL`
    rows: int  #: pictures in one call

    def __str__(self) -> str:
        return f"{self.size} x {self.rows}"


ONE, QUARTER = Point(LARGE, 1), Point(SMALL, 1)
FIRST: Final = (ONE, QUARTER)
REST: Final = tuple(Point(size, rows) for rows in (4, 2) for size in (LARGE, SMALL))
COLUMNS: Final = tuple(Point(size, rows) for size in (LARGE, SMALL) for rows in (1, 2, 4))
LONGEST: Final = 120  #: characters of an error
PACKAGES: Final = ("torch", "triton", "diffusers", "transformers", "safetensors", "torchao")


@dataclass
class Row:
    """One line of the table."""

    name: str
    goal: str = ""
    paces: dict[str, Pace] = field(default_factory=dict)  #: by point
    errors: dict[str, float] = field(default_factory=dict)  #: relative, by point
    absent: dict[str, str] = field(default_factory=dict)  #: why there is no pace, by point
    failure: str = ""  #: why nothing more is measured
    weights_gib: float = 0.0
    told: dict[str, Any] = field(default_factory=dict)  #: by a stage with processes of its own
    image_s: dict[str, float] = field(default_factory=dict)  #: seconds for one picture, by size

    def fail(self, error: Exception) -> None:
        """Tell the error's first line wherever a figure is missing."""
        first = str(error).strip().partition("\n")[0]
        self.failure = f"{type(error).__name__}: {first}"[:LONGEST].replace("|", "/")
        self.absent = dict.fromkeys(self.absent, self.failure)

    def line(self) -> str:
        """Return a line of Markdown."""
        cells = [self.name, *(self._pace(str(point)) for point in COLUMNS)]
        cells += [f"{self.image_s[size]:.2f}" if size in self.image_s else "" for size in (LARGE, SMALL)]
        cells += [self._error(), self._peak(), self._first(), self.goal]
        return f"| {' | '.join(cells)} |"

    def _pace(self, point: str) -> str:
        pace = self.paces.get(point)
        return f"{pace.median:.2f} ({pace.low:.2f} - {pace.high:.2f})" if pace else self.absent.get(point, "")

    def _error(self) -> str:
        return f"{max(self.errors.values()):.1e}" if self.errors else ""

    def _peak(self) -> str:
        """Return the most device memory that any point took, with the weights."""
        kept = [self.weights_gib + pace.peak_gib for pace in self.paces.values() if pace.peak_gib is not None]
        peak = max(kept, default=self.told.get("peak_gib"))
        return "" if peak is None else f"{peak:.1f}"

    def _first(self) -> str:
        """Return how long the slowest first call took, which compiles."""
        first = max((pace.first / 1e3 for pace in self.paces.values()), default=self.told.get("first_s"))
        return self.failure if first is None else f"{first:.1f}"


class Report:
    """All rows, kept in a file.

    Args:
        path: Of the JSON.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: list[Row] = []
        self.facts: dict[str, Any] = circumstances()

    def attempt(self, name: str, stage: Callable[[], dict[str, Any]], goal: str = "") -> None:
        """Add a row of what a stage returns, or of why it failed."""
        row = Row(name, goal)
        self.rows.append(row)
        try:
            row.told = stage()
            row.image_s = {LARGE: row.told["image_s"]} if "image_s" in row.told else {}
        except Exception as error:  # noqa: BLE001  whatever it is, the other stages are still measured
            row.fail(error)
        self.save()

    def save(self) -> None:
        """Write what was measured so far, when, with what, on what."""
        found = [asdict(row) | {"paces": {at: pace._asdict() for at, pace in row.paces.items()}} for row in self.rows]
        self._path.write_text(json.dumps({**self.facts, "rows": found}, indent=1))

    def table(self) -> str:
        """Return all of it in Markdown; a call's time is its median, with the range."""
        heads = ["variant", *(f"{point}, ms" for point in COLUMNS), f"s/image {LARGE}", f"s/image {SMALL}"]
        heads += ["error", "peak GiB", "first, s", "goal"]
        return "\n".join([f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(row.line() for row in self.rows)])


def circumstances() -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.executable).name, "-m", "tests.bench.gpu", *sys.argv[1:]]),
        "versions": {"python": platform.python_version(), **dict(_versions())},
        "device": _device(),
    }


def _versions() -> Iterable[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue
    if torch.cuda.is_available():
        yield "cuda", str(torch.version.cuda)
        yield "cudnn", str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]


def _device() -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {"name": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    found = torch.cuda.get_device_properties(0)
    return {"name": found.name, "memory_bytes": found.total_memory, "capability": f"{found.major}.{found.minor}"}
