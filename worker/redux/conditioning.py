"""What FLUX sees of a source instead of a text prompt.

Source: diffusers, pipeline_flux_prior_redux.py.
"""

from typing import Final

import torch
from torch import Tensor

from shared.images import Picture
from worker.redux.weights import Weights

#: Rows that an absent T5 prompt leaves, all zero: its longest sequence.
PROMPT_ROWS: Final = 512


def condition(weights: Weights, source: Picture) -> Tensor:
    """Return the context of one source; never of several, for diffusers' own pipeline would add them up.

    Returns:
        (1, 512 + patches, width) in the model's dtype; FLUX.1 Redux has 27 x 27 SigLIP patches, width 4096.
    """
    pixels = weights.image_processor(images=source, do_convert_rgb=True, return_tensors="pt")["pixel_values"]
    patches = weights.image_encoder(pixels.to(weights.device, weights.dtype)).last_hidden_state
    image: Tensor = weights.image_embedder(patches).image_embeds
    return torch.cat([image.new_zeros(1, PROMPT_ROWS, image.shape[2]), image], dim=1)
