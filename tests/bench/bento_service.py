"""BentoML's side of :mod:`tests.bench.accept`: a task that does nothing, in the environment that BentoML is in."""

from typing import Any

import bentoml


@bentoml.service
class Variator:
    @bentoml.task  # type: ignore[untyped-decorator]
    async def vary(self, type: str, model: str, promptObject: dict[str, Any], queue: bool) -> str:  # noqa: A002, FBT001, N803  our body's names
        return model
