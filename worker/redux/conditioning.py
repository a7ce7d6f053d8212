"""What FLUX sees of a source instead of a text prompt.

Source: diffusers, pipeline_flux_prior_redux.py.
"""

import torch
from torch import Tensor

from shared.images import Picture
from worker.redux.weights import Weights


def preprocess(weights: Weights, picture: Picture) -> Tensor:
    """Return what SigLIP looks at, (1, 3, height, width) float32 on the CPU."""
    pixels: Tensor = weights.image_processor(images=picture, do_convert_rgb=True, return_tensors="pt")["pixel_values"]
    return pixels


def condition(weights: Weights, pixels: Tensor) -> Tensor:
    """Return the context of one source; never of several, for diffusers' own pipeline would add them up.

    Returns:
        (1 + patches, width) as the transformer's blocks take it: the row that stands for the absent prompt's, then the
        source. FLUX.1 Redux has 27 x 27 SigLIP patches, width 3072.
    """
    patches = weights.image_encoder(pixels.to(weights.dtype)).last_hidden_state
    image: Tensor = weights.image_embedder(patches).image_embeds[0]
    context: Tensor = weights.transformer.context_embedder(torch.cat([image.new_zeros(1, image.shape[1]), image]))
    return context
