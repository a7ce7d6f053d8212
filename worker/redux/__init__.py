"""FLUX.1 Redux itself: the only place that imports torch, diffusers or transformers."""
