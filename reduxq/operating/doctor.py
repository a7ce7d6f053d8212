"""``reduxq doctor``: what is wrong with a deployment, seen from outside in, and how to mend it."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Thread
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.text import Text

from reduxq.cli.telling import JsonOption
from reduxq.local.folder import read_stack
from reduxq.operating import model_checks, server_checks
from reduxq.operating.findings import Check, Finding, Level, Site
from reduxq.operating.records import DataOption
from shared.clock import Clock
from shared.errors import Misconfigured
from shared.settings import load_settings

PATIENCE: Final = 12.0  #: seconds for all checks, which run side by side
COLOURS: Final = {Level.OK: "green", Level.NOTE: "blue", Level.WARNING: "yellow", Level.BROKEN: "bold red"}


def doctor(
    *,
    api: Annotated[str | None, typer.Option(metavar="URL", help="Public address of the API.")] = None,
    as_json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Check a deployment from outside in and say how to mend what is wrong; exit code 1 if something is broken."""
    levels = Counter[Level]()
    console = Console(markup=False, highlight=False, emoji=False, soft_wrap=True)
    for name, finding in _examine(data, api, Clock()):
        levels[finding.level] += 1
        console.print(json.dumps({"check": name, **finding._asdict()}) if as_json else _line(name, finding))
    if not as_json:
        console.print(", ".join(f"{levels[level]} {level}" for level in reversed(Level)))
    if levels[Level.BROKEN]:
        raise typer.Exit(1)


def _line(name: str, finding: Finding) -> Text:
    line = Text.assemble((f"{finding.level:8}", COLOURS[finding.level]), f" {name:15} {_shown(finding.found)}")
    return line.append(f"\n{'':24} -> {finding.mend}", "bold") if finding.mend else line


def _shown(text: str) -> str:
    """Return one line that cannot steer the terminal, whoever told it."""
    return "".join(character if character.isprintable() else " " for character in text)


def _examine(data: Path | None, api_url: str | None, clock: Clock) -> Iterator[tuple[str, Finding]]:
    if data:
        stack = read_stack(data)
        if "environment" not in stack:
            raise Misconfigured(f"the stack in {data} is one of an earlier release; start it again to check it")
        os.environ.update(stack["environment"])
        api_url = api_url or stack["api_url"]
    try:
        settings = load_settings()
    except Misconfigured as error:
        yield "settings", Finding(Level.BROKEN, error.message, "`reduxq settings` lists all that there are")
        return
    yield "settings", Finding(Level.OK, f"all known and allowed; API: {api_url or 'not named'}")
    yield from examine(Site(settings, api_url, clock), (*server_checks.CHECKS, model_checks.CHECK))


def examine(site: Site, checks: Sequence[Check], patience: float = PATIENCE) -> Iterator[tuple[str, Finding]]:
    """Make all checks side by side; what hangs or breaks keeps no other from its findings, nor the process alive."""
    until = site.clock.monotonic() + patience
    looks = [(check, list[Finding]()) for check in checks]
    threads = [Thread(target=_look, args=(site, *look), daemon=True) for look in looks]
    for thread in threads:
        thread.start()
    for thread, (check, findings) in zip(threads, looks, strict=True):
        thread.join(max(0, until - site.clock.monotonic()))
        late = thread.is_alive()
        yield from ((check.name, finding) for finding in list(findings))
        if late:
            yield check.name, Finding(Level.BROKEN, f"no answer within {patience:g} s", check.mend)


def _look(site: Site, check: Check, findings: list[Finding]) -> None:
    try:
        findings.extend(check.look(site))
    except Exception as error:  # noqa: BLE001  whatever it is, it is found and told
        findings.append(Finding(Level.BROKEN, str(error) or type(error).__name__, check.mend))
