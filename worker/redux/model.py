"""FLUX.1 Redux as the worker sees it."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import torch
from diffusers import FluxTransformer2DModel
from PIL import Image
from torch import Tensor

from shared.errors import ModelUnavailable
from shared.images import Picture, Source
from shared.jobs import Parameters, Recipe
from shared.settings import ModelSettings
from shared.sizes import Size
from worker import metrics
from worker.redux import decode, denoise
from worker.redux.attention import Way, collapse
from worker.redux.cache import Cache
from worker.redux.conditioning import condition, preprocess
from worker.redux.denoise import Trajectory
from worker.redux.device import Device
from worker.redux.latents import noise, positions
from worker.redux.schedule import Schedule, make_schedule
from worker.redux.tables import Tables
from worker.redux.weights import Weights
from worker.work import OutOfMemory

Made = TypeVar("Made")

ROTARY: Final = 256 * 2**20  #: bytes of rotary embeddings kept on the device; FLUX.1's largest takes 5 MB


class Prepared(NamedTuple):
    """A job before its first step."""

    size: Size
    condition: Callable[[], Tensor]  #: for the engine's thread
    noise: Tensor  #: (seeds, tokens, channels), staged
    rotary: Tensor
    table: Tensor
    schedule: Schedule


class ReduxModel:
    """The engine's model: no prompt, any number of jobs under way.

    Only :meth:`prepare`, and what :meth:`decode` returns, may be called by other threads than the engine's.

    Args:
        weights: Whose transformer it changes: the attention and, on a GPU, compiled blocks.
        settings: Say how; where the weights come from is no longer asked.
    """

    def __init__(self, weights: Weights, settings: ModelSettings) -> None:
        self._weights = weights
        self._device = Device(weights.device)
        self.memory, self.mark, self.between = self._device.memory, self._device.mark, self._device.between
        self.gpu = self._device.uuid()
        self._conditions = Cache(settings.conditions_bytes)
        self._rotary = Cache(ROTARY)
        folder = Path(settings.cache or "~/.cache/reduxq").expanduser() / "modulation"
        self._tables = Tables(weights.modulation, self._device, folder)
        self._channels: int = weights.transformer.config.in_channels // 4
        like, gpu = torch.empty(0, device=weights.device, dtype=weights.dtype), weights.device.type == "cuda"
        usual: Way = "expanded" if gpu else "bias"  # a GPU's quickest attention takes no mask
        collapse(weights.transformer, usual if settings.attention == "auto" else settings.attention, like)
        if settings.compile and gpu:
            compile_blocks(weights.transformer)

    @torch.inference_mode()
    def prepare(self, source: Source, recipe: Recipe) -> Prepared:
        """Do what needs no turn on the engine.

        Each variation's noise comes from a generator of its own on the CPU, so any one can be made again alone.

        Raises:
            ValueError: If a side is not a positive multiple of 16 pixels.
        """
        drawn = noise(recipe.seeds, channels=self._channels, size=recipe.size)
        schedule = make_schedule(self._weights.scheduler, recipe.num_inference_steps, drawn.shape[1])
        return Prepared(
            size=recipe.size,
            condition=self._see(source),
            noise=self._device.stage(drawn),
            rotary=self._rotary.get(recipe.size, partial(self._device.beside, partial(self._turn, recipe.size))),
            table=self._tables.get(schedule.timesteps, recipe.guidance_scale),
            schedule=schedule,
        )

    @torch.inference_mode()
    def begin(self, prepared: Prepared) -> list[Trajectory]:
        """Return a trajectory of pure noise for each seed; they share all that does not change.

        Raises:
            OutOfMemory: If the device has no room for them.
        """
        context, drawn = _fitting(lambda: (prepared.condition(), self._device.send(prepared.noise)))
        shared = (context, prepared.rotary, prepared.table, prepared.schedule)
        return [Trajectory(prepared.size, latents, *shared) for latents in drawn]

    @torch.inference_mode()
    def advance(self, rows: Sequence[Trajectory]) -> None:
        """Take one step with every row in one call; the rows have one size. If it raises, no row has changed.

        Raises:
            OutOfMemory: If the rows do not fit the device together.
            IndexError: If a row has no step left.
        """
        _fitting(lambda: denoise.advance(self._weights, rows))
        self._device.keep_pace()

    @torch.inference_mode()
    def decode(self, row: Trajectory) -> Callable[[], Picture]:
        """Start to make the picture; what is returned waits for it and raises ModelFailed if it is none.

        Raises:
            OutOfMemory: If the device has no room for that.
        """
        levels = _fitting(lambda: self._device.fetch(decode.levels(decode.colours(self._weights, row))))
        return lambda: decode.picture(levels())

    def warm(self, sizes: Sequence[Size], *, call_tokens: int) -> None:
        """Make a step and a picture of each size, with one row and with as many as a call may have.

        So code is compiled, kernels are chosen and the tables of usual jobs are there before the first of them.

        Raises:
            ModelUnavailable: If the device has no room for a single row.
        """
        grey = Source(Image.new("RGB", (64, 64), "grey"), "grey")
        usual = (Parameters.model_fields[name].default for name in ("num_inference_steps", "guidance_scale"))
        steps, guidance_scale = usual
        for size in sizes:
            for rows in sorted({1, max(1, call_tokens // size.tokens)}):
                try:
                    self._try(grey, Recipe(size, steps, guidance_scale, tuple(range(rows))))
                except OutOfMemory as error:
                    if rows == 1:  # of more, the engine will learn how many fit
                        shown = f"{size.width} x {size.height}"
                        raise ModelUnavailable(f"the device has too little memory for {shown}") from error

    def _try(self, source: Source, recipe: Recipe) -> None:
        rows = self.begin(self.prepare(source, recipe))
        self.advance(rows)
        self.decode(rows[0])()

    def _see(self, source: Source) -> Callable[[], Tensor]:
        """Return what gives the condition in the engine's thread, which has the less to do the more was seen before."""
        known = self._conditions.peek(source.digest)
        metrics.CONDITIONS.labels("miss" if known is None else "hit").inc()
        if known is not None:
            return lambda: known
        pixels = self._device.stage(preprocess(self._weights, source.picture))
        return lambda: self._conditions.get(source.digest, lambda: condition(self._weights, self._device.send(pixels)))

    def _turn(self, size: Size) -> Tensor:
        """Return cosines and sines of the rotary embedding, (2, 1 + patches + tokens, width of a head) float32."""
        vision = self._weights.image_encoder.config
        context = 1 + (vision.image_size // vision.patch_size) ** 2
        places = torch.cat([torch.zeros(context, 3), positions(size)]).to(self._weights.device)
        return torch.stack(self._weights.transformer.pos_embed(places))


def compile_blocks(transformer: FluxTransformer2DModel) -> None:
    """Have the transformer's blocks compiled, so that all sizes share what was compiled for one."""
    transformer.compile_repeated_blocks(dynamic=True)


def _fitting(call: Callable[[], Made]) -> Made:
    """Make a call that may take too much memory; torch's own error would keep the tensors alive that it came from."""
    try:
        return call()
    except torch.OutOfMemoryError as error:
        reason = str(error)
    raise OutOfMemory(reason)
