"""How fast FLUX.1 Redux is on a GPU: the stock pipeline's step, ours, and what else could be done.

The full-size architecture with random weights made on the device, no network; under 8 minutes on an H200. Prints one
table in Markdown and writes JSON. At the tiny scale the same runs on a CPU, uncompiled, to show that it works.
"""

import argparse
import sys
import tempfile
import time
from functools import partial
from os import environ
from pathlib import Path
from typing import Final

import diffusers
import torch
import transformers

from tests.bench.gpu_bundle import NEEDED, PRECISIONS, Bundle, room
from tests.bench.gpu_meter import Deadline
from tests.bench.gpu_models import SCALES, write_bundle
from tests.bench.gpu_plan import Plan, expect, picture_times
from tests.bench.gpu_rows import Report, Row
from tests.bench.gpu_variants import Bench, stock_picture

PIPELINE_SECONDS: Final = 10.0  #: kept for diffusers' pipeline
BUNDLE_SECONDS: Final = 200.0  #: and for what is measured on a bundle


def measure(chosen: argparse.Namespace, folder: Path, report: Report) -> None:
    """Measure everything that there is time and room for."""
    deadline = Deadline(60 * chosen.minutes)
    bench = Bench(SCALES[chosen.scale], torch.device(chosen.device), getattr(torch, PRECISIONS[chosen.device]))
    variants(chosen, bench, deadline, report)
    if chosen.no_bundle:
        return
    bundle = Bundle(folder, chosen.scale, chosen.device, deadline.left)
    report.attempt("bundle written", lambda: write(bundle, bench))
    bench.drop()
    if report.rows[-1].failure:
        return
    for name, goal, stage in bundle.stages():
        say(f"{name}; {deadline.left():.0f} s left")
        report.attempt(name, stage, goal)


def variants(chosen: argparse.Namespace, bench: Bench, deadline: Deadline, report: Report) -> None:
    """Measure the variants of step, attention and VAE."""
    report.facts["reference"] = expect(bench)
    kept = PIPELINE_SECONDS if chosen.no_bundle else PIPELINE_SECONDS + BUNDLE_SECONDS

    def told(rows: list[Row], name: str) -> None:
        report.rows = rows
        picture_times(rows, bench.scale.steps)
        report.save()
        say(f"{name}; {deadline.left():.0f} s left")

    Plan(
        bench,
        left=lambda: deadline.left() - kept,
        each=chosen.seconds_per_point,
        most=chosen.seconds_per_variant,
        told=told,
    ).run()
    report.attempt("stock: FluxPipeline, eager", partial(stock_picture, bench))


def write(bundle: Bundle, bench: Bench) -> dict[str, float]:
    """Write the bundle; return how long that took."""
    if room(bundle.folder) < NEEDED[bench.scale.name]:
        raise OSError(f"{bundle.folder} has no room for {NEEDED[bench.scale.name]} bytes; name another --folder")
    bundle.seconds()
    began = time.monotonic()
    write_bundle(bundle.place, bench.scale, bench.stock)
    return {"first_s": time.monotonic() - began}


def say(line: str) -> None:
    """Tell how far it is, beside the table."""
    print(line, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="full" if gpu else "tiny")
    parser.add_argument("--device", choices=PRECISIONS, default="cuda" if gpu else "cpu")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="written again after every variant")
    parser.add_argument("--minutes", type=float, default=7.5, help="in which all is to be done")
    parser.add_argument("--seconds-per-variant", type=float, default=40, help="for each of its two rounds, at most")
    parser.add_argument("--seconds-per-point", type=float, default=0.8, help="of measured calls, about")
    parser.add_argument("--folder", type=Path, help="where a bundle has room (30 GB); without it, a temporary one")
    parser.add_argument("--no-bundle", action="store_true")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.backends.cudnn.allow_tf32 = False  # the reference is float32
    report = Report(chosen.out)
    with tempfile.TemporaryDirectory(prefix="gpu-bench-", dir=chosen.folder) as name:
        environ["TORCHINDUCTOR_CACHE_DIR"] = f"{name}/inductor-variants"  # so that nothing was compiled before
        try:
            measure(chosen, Path(name), report)
        finally:
            report.save()
            print(report.table())


if __name__ == "__main__":
    main()
