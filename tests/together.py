"""Programs that run at the same time, as the requests of many clients do."""

import asyncio
from collections.abc import Iterable
from typing import Any

from shared.programs import Program, run_async
from tests.memory import connect_async


def run_together(url: str, programs: Iterable[Program[Any]]) -> list[Any]:
    """Return each program's result, or the exception that it raised."""

    async def run_all() -> list[Any]:
        async with connect_async(url) as client:
            return await asyncio.gather(*(run_async(client, each) for each in programs), return_exceptions=True)

    return asyncio.run(run_all())
