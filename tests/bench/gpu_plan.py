"""Which variants are measured, in order of importance, and how."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

import torch
from torch import Tensor

from tests.bench.gpu_attention import WAYS, Way
from tests.bench.gpu_meter import GIB, free, measure
from tests.bench.gpu_models import TIMESTEPS, make_vae, stock_call
from tests.bench.gpu_rows import FIRST, REST, Point, Row
from tests.bench.gpu_variants import (
    Bench,
    Prepared,
    attention,
    attention_inputs,
    ours,
    ours_float8,
    ours_fused,
    stock,
    vae,
    vae_cells,
)

EVERYWHERE: Final = frozenset({"cpu", "cuda"})
GPU: Final = frozenset({"cuda"})
EXACT: Final = "1 MP <= 3.7 s, 0.25 MP <= 1.2 s, <= 20 GiB"
FLOAT8: Final = "1 MP <= 2.7 s"
DECODING: Final = "VAE: eager (ships)"


class Variant(NamedTuple):
    """One line of the table."""

    name: str
    make: Callable[[Bench], Prepared]
    expect: Callable[[Bench, Point], Tensor]
    runs_on: frozenset[str] = EVERYWHERE  #: kinds of devices; a CPU compiles nothing
    points: tuple[Point, ...] = (*FIRST, *REST)
    goal: str = ""
    core: bool = False  #: whether all its points are measured before any other variant is


def expected_velocity(bench: Bench, point: Point) -> Tensor:
    return bench.expected[point.size][: point.rows]


def expected_colours(bench: Bench, point: Point) -> Tensor:
    """Decode in the reference's numbers with the variants' weights."""
    wide = make_vae(bench.scale, bench.device, bench.dtype).to(bench.wide)
    found: Tensor = wide.decode(vae_cells(bench, point).to(bench.wide), return_dict=False)[0]
    return found


def expected_attention(bench: Bench, point: Point) -> Tensor:
    return WAYS["expanded"].attend(*(x.to(bench.wide) for x in attention_inputs(bench, point)))


def _step(name: str, make: Callable[[Bench], Prepared], goal: str = "", *, core: bool = False) -> Variant:
    return Variant(name, make, expected_velocity, goal=goal, core=core)


def _ours(way: str) -> Variant:
    made = _step(f"ours: {way}, compiled", partial(ours, attention=way))
    return made._replace(runs_on=WAYS[way].runs_on)


def _vae(name: str, make: Callable[[Bench], Prepared]) -> Variant:
    return Variant(name, make, expected_colours, points=FIRST)


def _alone(way: str, found: Way) -> Variant:
    return Variant(f"attention alone: {way}", partial(attention, way=way), expected_attention, found.runs_on)


def _on_gpu(variant: Variant) -> Variant:
    return variant._replace(runs_on=GPU)


#: The most important first. Ours are with tables unless they say otherwise.
VARIANTS: Final = (
    _step("stock, eager", stock, core=True),
    _step("ours: expanded, compiled (ships)", ours, EXACT, core=True),
    _vae(DECODING, vae),
    _step("ours: bias, compiled (ships)", partial(ours, attention="bias")),
    *(_alone(way, found) for way, found in WAYS.items()),
    _ours("merged, cuDNN"),
    _ours("FlexAttention"),
    _ours("expanded, cuDNN"),
    _on_gpu(_step("ours: expanded, float8, compiled (ships)", ours_float8, FLOAT8)),
    _step("ours: expanded, fused QKV, compiled", ours_fused),
    _on_gpu(_step("ours: expanded, compiled, CUDA graph", partial(ours, graph=True))),
    _ours("merged, flash"),
    _vae("VAE: channels last, compiled", partial(vae, channels_last=True, compiled=True)),
    _step("ours: expanded, eager", partial(ours, compiled=False)),
    _step("ours: expanded, no tables, compiled", partial(stock, collapsed=True, compiled=True)),
    _step("stock, compiled", partial(stock, compiled=True)),
    _ours("bias, cuDNN"),
    _step("ours: bias, eager", partial(ours, attention="bias", compiled=False)),
    _step("ours: expanded, no tables, eager", partial(stock, collapsed=True)),
    _vae("VAE: channels last, eager", partial(vae, channels_last=True)),
    _ours("expanded, flash"),
    _ours("merged, CPU's flash"),
    _ours("bias, cuDNN, full mask"),
    _on_gpu(_step("ours: expanded, fused QKV, compiled, CUDA graph", partial(ours_fused, graph=True))),
    _on_gpu(_step("ours: expanded, float8, compiled, CUDA graph", partial(ours_float8, graph=True))),
    _on_gpu(_step("ours: expanded, float8 by torchao, compiled", partial(ours_float8, torchao=True))),
)


class Plan:
    """Measures the variants, the points that matter most of all of them first, as long as there is time.

    Args:
        bench: What they are made of.
        left: Returns the seconds that there still are.
        each: Seconds that the measured calls of one point take, about.
        most: Seconds that one variant may take for the points of a round.
        told: Called with all rows and the name of the variant whose row may be new.
        variants: The most important first.
    """

    def __init__(
        self,
        bench: Bench,
        *,
        left: Callable[[], float],
        each: float,
        most: float,
        told: Callable[[list[Row], str], None],
        variants: Sequence[Variant] = VARIANTS,
    ) -> None:
        self._bench, self._left, self._each, self._most, self._told = bench, left, each, most, told
        self._variants = variants
        self.rows = [Row(variant.name, variant.goal) for variant in variants]

    @torch.inference_mode()
    def run(self) -> None:
        for points in (FIRST, REST):
            for variant, row in zip(self._variants, self.rows, strict=True):
                now = variant.points if variant.core else [point for point in variant.points if point in points]
                mine = [point for point in now if str(point) not in row.paces]
                if mine:
                    self._round(variant, row, mine)
                    self._told(self.rows, variant.name)

    def _round(self, variant: Variant, row: Row, points: Sequence[Point]) -> None:
        """Measure what there is time for; whatever fails is told in the points' cells."""
        if self._bench.device.type not in variant.runs_on:
            needed = "a GPU" if variant.runs_on == GPU else "a CPU"
            row.absent |= dict.fromkeys(map(str, points), f"needs {needed}")
            return
        row.absent |= dict.fromkeys(map(str, points), row.failure or "not run")
        if row.failure or self._left() < 0:
            return
        try:
            self._measure(variant, row, points)
        except Exception as error:  # noqa: BLE001  whatever a library finds, the others are still measured
            row.fail(error)
        finally:
            free(self._bench.device)

    def _measure(self, variant: Variant, row: Row, points: Sequence[Point]) -> None:
        until = max(self._left() - self._most * (2 if variant.core else 1), 0)
        network, at = variant.make(self._bench)
        row.weights_gib = _bytes(network) / GIB
        for point in points:
            if self._left() < until:
                return
            pace, result = measure(partial(at, point), self._bench.device, self._each)
            row.paces[str(point)] = pace
            row.errors[str(point)] = relative_error(result, variant.expect(self._bench, point))
            del row.absent[str(point)]


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return how far apart two tensors are, in parts of the second's size; NaN where a number is not finite."""
    wide = expected.to(torch.promote_types(expected.dtype, torch.float32))
    return float((found.to(wide.dtype) - wide).norm() / wide.norm())


def _bytes(network: torch.nn.Module | None) -> int:
    """Return what its tensors take, those that it shares with others too."""
    if network is None:
        return 0
    tensors = [*network.parameters(), *network.buffers()]
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


def expect(bench: Bench) -> str:
    """Compute the velocities that all are compared with; return the name of the dtype that they were computed in."""
    for dtype in (bench.wide, bench.dtype):
        try:
            bench.expected = _velocities(bench, dtype)
        except torch.OutOfMemoryError:
            free(bench.device)
        else:
            free(bench.device)
            return str(dtype).removeprefix("torch.")
    raise RuntimeError("the device has no room for the stock transformer")


@torch.inference_mode()
def _velocities(bench: Bench, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return what the stock transformer finds for each size, one row at a time."""
    network = bench.copy(dtype)
    found = {}
    for point in FIRST:
        most = bench.inputs(point._replace(rows=len(TIMESTEPS))).to(dtype)
        alone = [most.rows(slice(row, row + 1)) for row in range(len(TIMESTEPS))]
        found[point.size] = torch.cat([network(**stock_call(network, given))[0] for given in alone])
    return found


def picture_times(rows: Sequence[Row], steps: int) -> None:
    """Work out the seconds for one picture alone: its steps, and its decoding as it ships."""
    by_name = {row.name: row for row in rows}
    for variant, row in zip(VARIANTS, rows, strict=True):
        for point in FIRST:
            pace, decoding = row.paces.get(str(point)), by_name[DECODING].paces.get(str(point))
            if variant.expect is expected_velocity and pace and decoding:
                row.image_s[point.size] = (steps * pace.median + decoding.median) / 1e3
