"""One job from its source to its files: our engine, diffusers' pipelines as their users call them, cog-flux's loop.

All three have the same weights, random ones of FLUX.1 Redux's classes in a small size, and make the same pictures.
cog-flux makes the variations one after another and the condition anew for each job. A round is two jobs of one source,
so that the second shows what a condition that was kept saves. Run by ``make bench``.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxPriorReduxPipeline
from diffusers import FluxTransformer2DModel as Transformer
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from transformers import SiglipVisionModel
from transformers.models.siglip import SiglipImageProcessorPil

from shared.clock import Clock
from shared.images import Picture, read_source
from shared.jobs import OutputFormat, Recipe
from shared.settings import ModelSettings, WorkerSettings
from shared.sizes import Size
from tests.bench.gpu_models import (
    NO_TEXT_ENCODERS,
    TINY,
    Scale,
    make_inputs,
    make_transformer,
    stock_call,
    write_bundle,
)
from tests.models import Follower
from tests.paced_worker import clouds
from tests.samples import alike, encoded, opened
from worker.encoding import encode
from worker.engine import Engine
from worker.redux.model import ReduxModel
from worker.redux.weights import load_weights

DEPTH: Final = (1, 2)  #: double and single blocks; FLUX.1 has 19 and 38
HEADS: Final = 4  #: of width 128, as FLUX.1's 24
STEPS, ROUNDS, VARIATIONS = 6, 2, 4
GUIDANCE, QUALITY = 3.0, 80
CALL_TOKENS = WorkerSettings.model_fields["call_tokens"].default
SIZE: Final = Size(512, 512)
GOALS: Final = (1.5, 1.6)  #: times as fast as the pipelines and as cog-flux's loop

Side = Callable[[bytes, Recipe], list[bytes]]  #: makes files of a source


class Spent(NamedTuple):
    """Seconds, and what for."""

    wall: float
    processor: float  #: of all cores together; tells more than the clock on a machine that others use too
    made: Any


@contextmanager
def ours(folder: Path, attention: str, call_tokens: int) -> Iterator[tuple[Side, ReduxModel]]:
    """Run the worker's engine; a job ends as the runner ends it."""
    weights = load_weights(str(folder / "base"), str(folder / "redux"), precision="float32", device="cpu")
    model = ReduxModel(weights, ModelSettings(attention=attention, cache=str(folder / "cache")))
    engine = Engine(model, Clock(), timedelta(minutes=10), call_tokens)
    engine.start()

    def side(file: bytes, recipe: Recipe) -> list[bytes]:
        return files(engine.vary(read_source(file), recipe, Follower()).pictures)

    yield side, model
    engine.stop()


class Stock:
    """diffusers' pipelines."""

    def __init__(self, folder: Path) -> None:
        base, redux = str(folder / "base"), str(folder / "redux")
        self.pipeline = FluxPipeline(
            transformer=Transformer.from_pretrained(base, subfolder="transformer"),
            vae=AutoencoderKL.from_pretrained(base, subfolder="vae"),
            scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(base, subfolder="scheduler"),
            **NO_TEXT_ENCODERS,
        )
        self.pipeline.set_progress_bar_config(disable=True)
        self._prior = FluxPriorReduxPipeline(
            image_encoder=SiglipVisionModel.from_pretrained(redux, subfolder="image_encoder"),
            image_embedder=ReduxImageEncoder.from_pretrained(redux, subfolder="image_embedder"),
            feature_extractor=SiglipImageProcessorPil.from_pretrained(redux, subfolder="feature_extractor"),
        )

    @torch.inference_mode()
    def together(self, file: bytes, recipe: Recipe) -> list[bytes]:
        """Make all variations in one call, as a user of the pipelines does."""
        return files(self._pictures(self.condition(file), recipe, recipe.seeds))

    @torch.inference_mode()
    def one_by_one(self, file: bytes, recipe: Recipe) -> list[bytes]:
        """Make one variation after another, as cog-flux does."""
        condition = self.condition(file)
        return files([picture for seed in recipe.seeds for picture in self._pictures(condition, recipe, [seed])])

    def condition(self, file: bytes) -> Any:
        return self._prior(read_source(file).picture)

    def _pictures(self, condition: Any, recipe: Recipe, seeds: Sequence[int]) -> list[Picture]:
        # The pipeline's num_images_per_prompt does not repeat a condition that it is given.
        embeds = {name: tensor.repeat(len(seeds), *[1] * (tensor.ndim - 1)) for name, tensor in condition.items()}
        pictures: list[Picture] = self.pipeline(
            **embeds,
            width=recipe.size.width,
            height=recipe.size.height,
            num_inference_steps=recipe.num_inference_steps,
            guidance_scale=recipe.guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        ).images
        return pictures


def files(pictures: Sequence[Picture]) -> list[bytes]:
    return [encode(picture, OutputFormat.PNG, QUALITY) for picture in pictures]


def scale_of(depth: Sequence[int]) -> Scale:
    """Return a small model whose context is as wide as FLUX.1's, as the stock prior takes it for granted."""
    sizes = {"num_layers": depth[0], "num_single_layers": depth[1], "num_attention_heads": HEADS}
    vision = TINY.vision | {"image_size": 384}
    return TINY._replace(transformer=sizes | {"attention_head_dim": 128}, vision=vision)


def timed(call: Callable[[], Any]) -> Spent:
    """Return what a call took, and what it returned."""
    wall, processor = time.perf_counter(), time.process_time()
    made = call()
    return Spent(time.perf_counter() - wall, time.process_time() - processor, made)


def compare(sides: dict[str, Side], recipe: Recipe, rounds: int) -> None:
    """Let the sides make jobs in turns and print how many times as fast ours is."""
    spent: dict[tuple[str, bool], list[Spent]] = {(name, again): [] for again in (False, True) for name in sides}
    for number in range(rounds):
        source = encoded(clouds(Size(1024 + 16 * number, 768)), "JPEG")  # each another one
        for name, side in sides.items():
            for again in (False, True):
                spent[name, again].append(timed(partial(side, source, recipe)))
    for (name, again), times in spent.items():
        own = spent["ours", again]
        pairs = list(zip(times, own, strict=True))
        wall, processor = (
            statistics.median(other[column] / mine[column] for other, mine in pairs) for column in (0, 1)
        )
        seconds = statistics.median(each.wall for each in times)
        same = min(alike(*(map(opened, side.made) for side in pair)) for pair in pairs)
        told = f"{wall:.2f} times ours ({processor:.2f} in processor time); {same:.2%} of values within one level"
        print(f"{seconds:8.2f} s  {name}, {'the same source again' if again else 'a new source'}: {told}", flush=True)


@torch.inference_mode()
def tell_parts(stock: Stock, model: ReduxModel, scale: Scale, recipe: Recipe) -> None:
    """Print where the time goes, each part alone."""
    transformer = stock.pipeline.transformer
    given, source = make_inputs(scale, recipe.size, transformer), encoded(clouds(Size(1040, 784)), "JPEG")
    rows, call = len(recipe.seeds), stock_call(transformer, given)
    one = stock_call(transformer, given.rows(slice(1)))
    seen = read_source(source)
    fresh = recipe._replace(num_inference_steps=2, guidance_scale=GUIDANCE + 0.5)  # both are made; no table is kept
    prepared = timed(partial(model.prepare, seen, fresh))
    begun = timed(partial(model.begin, prepared.made))
    trajectories = begun.made
    parts = {
        f"stock: a step, {rows} rows in a call": timed(partial(transformer, **call)),
        f"stock: a step, {rows} calls": timed(lambda: [transformer(**one) for _ in range(rows)]),
        f"ours: a step, {rows} rows in a call": timed(partial(model.advance, trajectories)),
        f"ours: a step, {rows} calls": timed(lambda: [model.advance([row]) for row in trajectories]),
        "stock: the condition": timed(partial(stock.condition, source)),
        "ours: the condition, unless it is kept": begun,
        "ours: preprocessing and the modulation table, unless that is kept": prepared,
        "the pictures": (decoded := timed(lambda: [model.decode(row)() for row in trajectories])),
        "their files": timed(partial(files, decoded.made)),
    }
    for name, part in parts.items():
        print(f"{part.wall:8.2f} s  of the clock, {part.processor:6.2f} s of processors: {name}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.loops", description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--depth", type=int, nargs=2, default=DEPTH, help="double and single blocks")
    parser.add_argument("--attention", choices=("auto", "expanded", "bias"), default="auto", help="of ours")
    parser.add_argument("--call-tokens", type=int, default=CALL_TOKENS, help="of ours; 1024 are a row")
    given = parser.parse_args()
    scale = scale_of(given.depth)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_bundle(folder, scale, make_transformer(scale, torch.device("cpu"), torch.float32))
        stock = Stock(folder)
        with ours(folder, given.attention, given.call_tokens) as (side, model):
            sides = {"ours": side, "diffusers' pipelines": stock.together, "cog-flux's loop": stock.one_by_one}
            recipe = Recipe(SIZE, given.steps, GUIDANCE, tuple(range(VARIATIONS)))
            for warm in sides.values():
                warm(encoded(clouds(Size(512, 384)), "JPEG"), recipe._replace(num_inference_steps=1))
            compare(sides, recipe, given.rounds)
            tell_parts(stock, model, scale, recipe)
    print(f"         goals: {GOALS[0]} times ours for the pipelines, {GOALS[1]} for cog-flux's loop")


if __name__ == "__main__":
    main()
