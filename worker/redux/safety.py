"""What must not be shown: pictures that are not safe for work, as an image classifier sees them."""

from typing import Any, Final, Self

import torch
import transformers
from transformers import AutoImageProcessor, AutoModelForImageClassification

from shared.errors import ModelUnavailable
from shared.images import Picture
from worker.redux.weights import load_network, load_part

UNSAFE: Final = "nsfw"  #: the class whose probability counts, in any case
_PART: Final = "safety checker"


class SafetyChecker:
    """Tells how likely a picture is not safe for work.

    It computes on the CPU, in float32 and in the thread of the job that asks, so that the engine's thread, and with it
    the GPU, never waits for it. Several threads may ask at a time.
    """

    def __init__(self, processor: Any, network: Any, column: int) -> None:
        self._processor = processor
        self._network = network
        self._column = column

    @classmethod
    def load(cls, place: str) -> Self:
        """Load an image classifier of transformers from a folder or hub id; code that lies beside it is never run.

        Raises:
            ModelUnavailable: If that cannot be done, or no class of it is called nsfw; the message says what to do.
        """
        transformers.utils.logging.disable_progress_bar()
        options = {"subfolder": "", "trust_remote_code": False}
        processor = load_part(AutoImageProcessor, place, _PART, backend="pil", **options)
        kind, cpu = AutoModelForImageClassification, torch.device("cpu")
        network = load_network(kind, place, _PART, torch.float32, cpu, **options)
        columns = {name.lower(): column for column, name in network.config.id2label.items()}
        if UNSAFE not in columns or len(columns) == 1:  # a single class is certain whatever it sees
            raise ModelUnavailable(
                f"{place} is no safety checker: it must tell {UNSAFE} from something else, but its classes are "
                f"{', '.join(columns)}; mend REDUXQ_MODEL__SAFETY_CHECKER"
            )
        return cls(processor, network, columns[UNSAFE])

    @torch.inference_mode()
    def scores(self, pictures: list[Picture]) -> list[float]:
        """Return for each RGB picture the probability that it is not safe for work.

        Raises:
            ArithmeticError: If one is not a finite number, which would count as below any threshold.
        """
        pixels = self._processor(images=pictures, return_tensors="pt")["pixel_values"]
        chances = self._network(pixel_values=pixels).logits.softmax(dim=1)[:, self._column]
        if not chances.isfinite().all():
            raise ArithmeticError("the scores are not finite")
        scores: list[float] = chances.tolist()
        return scores
