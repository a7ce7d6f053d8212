"""The parameters of variations as options; what is left out the service decides, and it says what is not allowed."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import typer

NumOutputs = Annotated[int | None, typer.Option("--num-outputs", "-n", help="Variations of each image, 1 to 4.")]
AspectRatio = Annotated[str | None, typer.Option(help="1:1, 4:3, 16:9, ...")]
Megapixels = Annotated[str | None, typer.Option(help="1 or 0.25.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Denoising steps, 1 to 50.")]
Seed = Annotated[int | None, typer.Option(help="Of the first variation; the next has one more.")]
Format = Annotated[Literal["webp", "jpg", "png"] | None, typer.Option("--format", help="Of the files.")]
Quality = Annotated[int | None, typer.Option("--quality", help="Of webp and jpg, 1 to 100.")]
Priority = Annotated[Literal["normal", "low"] | None, typer.Option(help="Low: after all others.")]


def given(arguments: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return those of a command's arguments that were given, under these names."""
    return {name: arguments[name] for name in names if arguments.get(name) is not None}
