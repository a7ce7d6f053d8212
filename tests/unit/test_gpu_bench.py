"""The benchmark for a GPU, without one: its mathematics, and that it goes on whatever happens."""

import json
import math
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.bench import gpu, gpu_bundle
from tests.bench.gpu_attention import WAYS
from tests.bench.gpu_models import TINY, stock_call
from tests.bench.gpu_plan import (
    VARIANTS,
    Plan,
    Variant,
    expect,
    expected_velocity,
    picture_times,
    relative_error,
)
from tests.bench.gpu_rows import FIRST, LARGE, ONE, Point, Row
from tests.bench.gpu_variants import Bench, Prepared, ours, ours_float8, ours_fused, stock

CPU = torch.device("cpu")
FOUR = Point(LARGE, 4)
HERE = [variant for variant in VARIANTS if "cpu" in variant.runs_on]
STEPS: list[Callable[[Bench], Prepared]] = [
    stock,
    ours,
    partial(ours, attention="bias"),
    partial(ours, attention="FlexAttention"),
    partial(ours, attention="merged, CPU's flash"),
    ours_fused,
]


def made(dtype: torch.dtype) -> Bench:
    bench = Bench(TINY, CPU, dtype)
    expect(bench)
    return bench


@pytest.fixture(scope="module")
def bench() -> Bench:
    return made(torch.float64)


def planned(bench: Bench, variants: list[Variant], seconds: float = 1000) -> list[Row]:
    told: list[str] = []
    left = lambda: seconds - len(told)  # noqa: E731  a second passes whenever something is told
    plan = Plan(bench, left=left, each=0, most=100, told=lambda _, name: told.append(name), variants=variants)
    plan.run()
    return plan.rows


@pytest.mark.parametrize("variant", HERE, ids=[variant.name for variant in HERE])
@torch.inference_mode()
def test_every_variant_that_a_cpu_can_run_computes_what_the_stock_model_does(bench: Bench, variant: Variant) -> None:
    point = FOUR if FOUR in variant.points else ONE
    _, at = variant.make(bench)
    assert relative_error(at(point)(), variant.expect(bench, point)) < 1e-12


@torch.inference_mode()
def test_it_would_show_if_one_null_row_did_not_count_512_fold(bench: Bench) -> None:
    network = bench.copy()
    one = network(**stock_call(network, bench.inputs(FOUR), 1))[0]
    assert relative_error(one, expected_velocity(bench, FOUR)) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("make", STEPS, ids=range(len(STEPS)))
@torch.inference_mode()
def test_the_blocks_of_a_step_are_compiled_whole(bench: Bench, make: Callable[[Bench], Prepared]) -> None:
    network, at = make(bench)
    assert network is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler, about itself
        network.compile_repeated_blocks(backend="eager", fullgraph=True)  # type: ignore[operator]
        velocity = at(FOUR)()
    torch.compiler.reset()
    assert relative_error(velocity, expected_velocity(bench, FOUR)) < 1e-12


@pytest.mark.parametrize("way", ["merged, flash", "merged, cuDNN"])
def test_the_kernels_of_a_gpu_give_what_their_merging_expects(way: str) -> None:
    rows = torch.empty(2, 31, 3, 16, dtype=torch.bfloat16, device="meta")
    assert WAYS[way].attend(rows, rows, rows).shape == rows.shape


@torch.inference_mode()
def test_float8_is_near_what_it_stands_for_but_not_exact() -> None:
    bench = made(torch.bfloat16)
    errors = []
    for make in (ours, ours_float8):
        _, at = make(bench)
        errors.append(relative_error(at(FOUR)(), expected_velocity(bench, FOUR)))
    assert errors[0] < 0.03 < errors[1] < 0.3


def test_a_variant_that_fails_tells_why_and_the_others_are_measured(bench: Bench) -> None:
    def broken(_: Bench) -> Prepared:
        raise RuntimeError("no kernel | for this\nand much more")

    whole = VARIANTS[1]._replace(points=FIRST)
    failing, fine = planned(bench, [whole._replace(make=broken), whole])
    assert "RuntimeError: no kernel / for this |" in failing.line()
    assert not failing.paces
    assert len(fine.paces) == len(FIRST)


def test_what_there_is_no_time_for_is_told_as_not_run(bench: Bench) -> None:
    plain = VARIANTS[1]._replace(core=False)
    first, second = planned(bench, [plain, plain], seconds=0.5)
    assert str(ONE) in first.paces
    assert second.absent == dict.fromkeys(map(str, plain.points), "not run")


def test_a_picture_takes_its_steps_and_its_decoding(bench: Bench) -> None:
    rows = planned(bench, [variant._replace(points=(ONE,)) for variant in VARIANTS[:3]])
    rows += [Row(variant.name) for variant in VARIANTS[3:]]
    picture_times(rows, steps=10)
    step, decoding = (rows[place].paces[str(ONE)].median for place in (0, 2))
    assert math.isclose(rows[0].image_s[LARGE], (10 * step + decoding) / 1000)
    assert not rows[2].image_s


def test_one_command_measures_and_reports_all_that_a_cpu_can_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "--scale tiny --device cpu --no-bundle --seconds-per-point 0 --minutes 0.32 --out"
    monkeypatch.setattr(sys, "argv", ["gpu", *command.split(), str(tmp_path / "gpu.json")])
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    gpu.main()
    lines = capsys.readouterr().out.splitlines()
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert len(lines) == 2 + len(VARIANTS) + 1 == 2 + len(written["rows"])
    assert written["rows"][-1]["image_s"][LARGE] > 0
    assert not [row["failure"] for row in written["rows"] if row["failure"]]
    assert {"date", "command", "versions", "device", "reference"} <= written.keys()
    assert all(row["errors"][at] < 1e-5 for row in written["rows"] for at in row["paces"])
    assert sum("needs a GPU" in line for line in lines) == len(VARIANTS) - len(HERE)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_bundle_is_loaded_makes_pictures_and_is_served(tmp_path: Path) -> None:
    bundle = gpu_bundle.Bundle(tmp_path, "tiny", "cpu", lambda: 120.0)
    gpu.write(bundle, made(torch.float32))
    found = {name: stage() for name, _, stage in bundle.stages()}
    assert all(told["first_s"] > 0 for told in found.values())
    assert len(found) == 4
    (served,) = (told for told in found.values() if "gpu_s" in told)
    assert 0 < served["gpu_s"] <= served["image_s"]
