"""A poll while 1,000 callers are blocked on the same API process, beside a poll of the idle one.

No worker runs, so nothing ends: the callers hold their connections and wait. Run by ``make bench``.
"""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from shared.connections import connect, run
from shared.keys import create_key
from tests import servers
from tests.samples import encoded, picture

CALLERS = 1000
POLLS = 500
FOR_EVER = {"REDUXQ_API__WAIT_SECONDS": "600", "REDUXQ_TEAMS__OPEN_JOBS": "100000"}


async def poll(client: httpx.AsyncClient, uuid: str) -> float:
    """Return the median of one poll's milliseconds."""
    times = []
    for _ in range(POLLS):
        started = time.perf_counter()
        (await client.get(f"/api/results/{uuid}")).raise_for_status()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


async def measure(url: str, key: str, valkey: str) -> None:
    options: dict[str, Any] = {"base_url": url, "headers": {"API-KEY": key}, "timeout": 600}
    (api,) = (process for process in psutil.Process().children() if "api" in process.cmdline())
    everybody = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(**options) as client, httpx.AsyncClient(limits=everybody, **options) as callers:
        uploaded = await client.post("/api/assets", files={"asset": encoded(picture(), "PNG")})
        prompt = {"imageUrl": uploaded.json()["asset"]["key"]}
        body = {"type": "IMAGE_VARIATOR", "model": "black-forest-labs/flux-redux-dev", "promptObject": prompt}
        first = (await client.post("/api/features", json=body | {"async": True})).json()["aiRecord"]["uuid"]
        idle, idle_bytes = await poll(client, first), api.memory_info().rss
        blocked = [asyncio.create_task(callers.post("/api/features", json=body)) for _ in range(CALLERS)]
        with connect(valkey) as records:
            while int(records.zcard("jobs:queued")) < CALLERS + 1:  # noqa: ASYNC110  another process sets it
                await asyncio.sleep(0.2)
        busy, busy_bytes = await poll(client, first), api.memory_info().rss
        print(f"{idle:8.2f} ms  a poll of the idle server, median of {POLLS}; {idle_bytes / 2**20:.0f} MiB")
        print(f"{busy:8.2f} ms  a poll beside {CALLERS} blocked callers; {busy_bytes / 2**20:.0f} MiB")
        print(f"{busy / idle:8.2f} times as long; {sum(not task.done() for task in blocked)} still wait")
        for task in blocked:
            task.cancel()
        await asyncio.gather(*blocked, return_exceptions=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with servers.valkey(folder / "valkey") as valkey, servers.s3(folder) as s3:
            with connect(valkey) as records:
                key = run(records, create_key("bench", "somebody"))
            with servers.api(folder, servers.settings_for(valkey, s3) | FOR_EVER) as url:
                asyncio.run(measure(url, key, valkey))


if __name__ == "__main__":
    main()
