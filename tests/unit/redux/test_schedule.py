"""The schedule is the stock pipeline's, as a value."""

import dataclasses

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift, retrieve_timesteps

from worker.redux.schedule import make_schedule
from worker.redux.weights import Weights


@pytest.mark.parametrize("tokens", [256, 1008, 4032, 4096])
@pytest.mark.parametrize("steps", [1, 2, 28, 50])
def test_it_equals_the_stock_pipelines(weights: Weights, steps: int, tokens: int) -> None:
    stock = FlowMatchEulerDiscreteScheduler.from_config(weights.scheduler.config)
    even = torch.linspace(1, 1 / steps, steps, dtype=torch.float64).tolist()
    timesteps, _ = retrieve_timesteps(stock, sigmas=even, mu=calculate_shift(tokens))
    ours = make_schedule(weights.scheduler, steps, tokens)
    assert ours.timesteps == pytest.approx(timesteps.tolist(), rel=1e-6)
    assert ours.sigmas == pytest.approx(stock.sigmas.tolist(), rel=1e-6)


def test_it_begins_with_pure_noise_then_leaves_none(weights: Weights) -> None:
    for steps in (1, 50):
        schedule = make_schedule(weights.scheduler, steps, 1024)
        assert len(schedule.timesteps) == steps
        assert (schedule.sigmas[0], schedule.sigmas[-1]) == (1, 0)


def test_larger_pictures_keep_more_noise_for_longer(weights: Weights) -> None:
    small, large = (make_schedule(weights.scheduler, 4, tokens).sigmas for tokens in (1024, 4096))
    assert all(one < other for one, other in zip(small[1:-1], large[1:-1], strict=True))


def test_it_is_made_once_without_touching_the_scheduler(weights: Weights) -> None:
    before = weights.scheduler.timesteps.clone()
    schedule = make_schedule(weights.scheduler, 3, 1024)
    assert make_schedule(weights.scheduler, 3, 1024) is schedule
    assert torch.equal(weights.scheduler.timesteps, before)
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.sigmas = ()  # type: ignore[misc]
