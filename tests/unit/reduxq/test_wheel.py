"""What customers install."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.servers import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT / "reduxq", check=True, capture_output=True, timeout=60)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content; what it needs is taken from here."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(installed: Path, *arguments: str) -> str:
    """Run Python with the wheel and the packages of this environment, but not with this repository."""
    environment = {**os.environ, "PYTHONPATH": f"{installed}:{sysconfig.get_path('purelib')}"}
    command = [sys.executable, "-S", "-P", *arguments]  # no editable installation
    done = subprocess.run(
        command, cwd=installed, env=environment, check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout


def test_the_wheel_holds_the_client_and_its_command_line_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith("METADATA"))
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"reduxq", "reduxq_client"}
    assert {"reduxq/__init__.py", "reduxq/cli/batch.py", "reduxq/py.typed", "reduxq/LICENSE"} <= set(names)
    assert not [name for name in names if "local" in name or "operating" in name or name.endswith(".toml")]
    told = Parser().parsestr(metadata)
    assert told.get_all("Requires-Dist") == ["httpx<1,>=0.27", "rich", "typer"]
    assert told.get_all("Classifier") == ["Private :: Do Not Upload"]
    assert told["Version"] == version("reduxq")


def test_the_client_works_without_the_packages_of_an_installation(installed: Path) -> None:
    code = (
        "import sys, reduxq; reduxq.Client('http://127.0.0.1:9', 'key').close();"
        "assert 'typer' not in sys.modules; import reduxq.cli;"
        "print(reduxq.__file__, *sorted(name.partition('.')[0] for name in sys.modules))"
    )
    file, *loaded = run(installed, "-c", code).split()
    assert Path(file).parent == installed / "reduxq"
    assert not {"api", "worker", "shared", "celery", "pydantic", "redis", "boto3", "torch"} & set(loaded)


def test_the_command_line_tells_its_commands_and_exit_codes(installed: Path) -> None:
    helped = run(installed, "-c", "import reduxq.cli; reduxq.cli.main()", "--help")
    assert "Exit codes" in helped
    for command in ("submit", "status", "wait", "cancel", "list", "download", "batch", "watch", "login"):
        assert f" {command} " in helped
