"""The local stack on the command line, and the model that it runs."""

import os
import sys
from pathlib import Path
from time import monotonic
from typing import Annotated, Final, NoReturn

import typer
from rich.console import Console

from reduxq.client import Parameters
from reduxq.local.demo import SAMPLE, run_demo
from reduxq.local.parts import python
from reduxq.local.signals import noted_signals
from reduxq.local.stack import Stack, running_stack

DATA: Final = Path(".reduxq")
DEMO_DATA: Final = DATA / "demo"

local = typer.Typer()
model = typer.Typer(no_args_is_help=True, help="The model's weights.")
local.add_typer(model, name="model")


@local.command()
def up(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the API; 0 means any free one.")] = 8000,
    data: Annotated[Path, typer.Option(help="Folder for everything that the stack keeps.")] = DATA,
    workers: Annotated[int, typer.Option(min=1, help="Number of worker processes.")] = 1,
) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    began, console = monotonic(), _console()
    console.print(f"Starting reduxq; data and logs are in {data}")
    with noted_signals() as signals:
        try:
            with running_stack(data, console, signals, port=port, workers=workers) as stack:
                _announce(stack, monotonic() - began, console)
                while True:
                    stack.supervisor.tend()
        except KeyboardInterrupt:
            console.print(f"Stopped; the data stays in {data}")


def _announce(stack: Stack, seconds: float, console: Console) -> None:
    url, kept = stack.plan.url, stack.plan.kept
    console.print(
        f"Ready after {seconds:.1f} s; Ctrl-C stops it\n"
        f"  API     {url('api')}\n"
        f"  key     {stack.api_key}\n"
        f"  Flower  {url('flower')}  user {kept.flower_user}, password {kept.flower_password}\n"
        "Upload an image:\n"
        f"  curl -H 'API-KEY: {stack.api_key}' -F asset=@example.png {url('api')}/api/assets"
    )


def _console() -> Console:
    """Return one that prints paths and commands as they are, for pasting."""
    return Console(markup=False, highlight=False, soft_wrap=True)


@local.command()
def demo(
    *,
    image: Annotated[Path, typer.Option(help="Picture to vary.", show_default="a sample")] = SAMPLE,
    num_outputs: Annotated[int, typer.Option(help="Number of variations, 1 to 4.")] = 4,
    aspect_ratio: Annotated[str, typer.Option(help="Shape of the variations, one of eleven.")] = "4:3",
    megapixels: Annotated[str, typer.Option(help="Size of the variations, 1 or 0.25.")] = "0.25",
    steps: Annotated[int, typer.Option(help="Denoising steps, 1 to 50.")] = 8,
    out: Annotated[Path, typer.Option(help="Folder for what comes out.")] = Path("demo-output"),
    data: Annotated[Path, typer.Option(help="Folder for everything that the stack keeps.")] = DEMO_DATA,
) -> None:
    """Send one picture through the whole service and show what comes out."""
    prompt = Parameters(
        num_outputs=num_outputs, aspect_ratio=aspect_ratio, megapixels=megapixels, num_inference_steps=steps
    )
    with noted_signals() as signals:
        try:
            run_demo(prompt, image=image, out=out, data=data, console=_console(), signals=signals)
        except KeyboardInterrupt:
            sys.exit(128 + signals[-1])


@model.command()
def tiny(folder: Annotated[Path, typer.Argument(help="Becomes FOLDER/base, FOLDER/redux and FOLDER/safety.")]) -> None:
    """Write the tiny random-weight model that tests and the demo use."""
    _run_module("worker.redux.tiny", str(folder))


@model.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False)
def pull(context: typer.Context) -> None:
    """Download the real weights (gated, non-commercial; --help lists the options)."""
    _run_module("worker.redux.pull", *context.args)


def _run_module(module: str, *arguments: str) -> NoReturn:
    """Run one of the worker's own commands in our place; we import nothing of it."""
    os.execv(sys.executable, python(module, *arguments))  # noqa: S606  no shell
