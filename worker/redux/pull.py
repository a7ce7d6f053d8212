"""Fetches the weights from the hub, once, where the hub can be reached."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from huggingface_hub import snapshot_download

from shared.errors import ModelUnavailable
from shared.settings import ModelSettings
from worker.redux.hub import FAILURES, unavailable

#: What the worker loads, by setting; text encoders and single-file checkpoints would double the volume.
_PATTERNS: Final = {
    "base": ("transformer/*", "vae/*", "scheduler/*"),
    "redux": ("image_encoder/*", "image_embedder/*", "feature_extractor/*"),
    "safety_checker": ("config.json", "preprocessor_config.json", "model*.safetensors*"),
}

_NOTICE: Final = """\
The weights of FLUX.1 are gated and licensed by Black Forest Labs under the FLUX.1 [dev] Non-Commercial License.
Accept it with your account at https://huggingface.co/{base}
and at https://huggingface.co/{redux},
then set HF_TOKEN to a token of that account, or log in with `hf auth login`."""


def pull(repository: str, patterns: Iterable[str], into: Path | None = None) -> Path:
    """Fetch files of a hub repository, going on where an earlier pull was cut off.

    Its index and licence come too. Without ``into`` they go to the hub's own cache; returned is where they are.

    Raises:
        ModelUnavailable: If the hub refuses, does not know the repository, or cannot be reached.
    """
    try:
        allowed = ["model_index.json", "LICENSE*", *patterns]
        return Path(snapshot_download(repository, local_dir=into, allow_patterns=allowed))
    except FAILURES as error:
        raise unavailable(error, wanted="the model", place=repository) from error


def main() -> None:
    """Fetch the three repositories, then print the settings that use them."""
    parser = argparse.ArgumentParser(description="Fetch the weights of FLUX.1 Redux, about 25 GB.")
    for part in _PATTERNS:
        default = getattr(ModelSettings(), part)
        parser.add_argument(f"--{part.replace('_', '-')}", default=default, metavar="ID", help="hub id (%(default)s)")
    parser.add_argument("--into", type=Path, metavar="DIR", help="put them in DIR/base and so on (the hub's cache)")
    chosen = parser.parse_args()
    sys.stderr.write(_NOTICE.format(base=chosen.base, redux=chosen.redux) + "\n")
    try:
        places = {
            part: pull(getattr(chosen, part), patterns, chosen.into and chosen.into / part)
            for part, patterns in _PATTERNS.items()
        }
    except ModelUnavailable as error:
        sys.exit(error.message)
    sys.stdout.writelines(f"REDUXQ_MODEL__{part.upper()}={place.resolve()}\n" for part, place in places.items())


if __name__ == "__main__":
    main()
