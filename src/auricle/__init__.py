"""auricle: paired cardiac CT from latent diffusion, and the segmenter that learns from it."""

__version__ = "0.1.0"
