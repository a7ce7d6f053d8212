"""One call of PyPI's 1minai-webapi, as a process, since it reads ``SSL_CERT_FILE`` while it is imported.

What to call comes as JSON on stdin, what came of it goes to stdout.
"""

import asyncio
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import oneminai_webapi


async def call(method: str, arguments: dict[str, Any], client: dict[str, Any]) -> Any:
    """Call a method of the client, or ``save``, which downloads a picture as the package does it."""
    if method == "save":
        image = oneminai_webapi.GeneratedImage(arguments["url"])
        return str(await image.save(Path(arguments["folder"])))
    async with oneminai_webapi.OneMinAIClient(**client) as session:
        answer = await getattr(session, method)(**arguments)
    return dataclasses.asdict(answer) if dataclasses.is_dataclass(type(answer)) else answer


def main() -> None:
    """Print ``{"answer": ...}`` or ``{"error": ...}``."""
    try:
        result = {"answer": asyncio.run(call(**json.load(sys.stdin)))}
    except oneminai_webapi.OneMinAIError as error:
        result = {"error": {"kind": type(error).__name__, "message": str(error), **vars(error)}}
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
