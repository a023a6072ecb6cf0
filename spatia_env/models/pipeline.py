"""`SpatiaPipeline`: a `ClipGenerator` as a diffusers pipeline, with its devices, offloading and saving.

Importing `DiffusionPipeline` loads transformers, peft and scipy's statistics, 2 s: only what needs it imports this.
"""

from diffusers import DiffusionPipeline

from spatia_env.models.generator import ClipGenerator, ClipShape


class SpatiaPipeline(ClipGenerator, DiffusionPipeline):
    """Generates clips; called like `ClipGenerator`, with the same arguments."""

    def __init__(
        self, transformer: object, autoencoder: object, text_encoder: object,
        shape: ClipShape | None = None, sigmas: tuple[float, ...] = (1.0,),
    ) -> None:  # fmt: skip
        DiffusionPipeline.__init__(self)
        self.register_modules(transformer=transformer, autoencoder=autoencoder, text_encoder=text_encoder)
        ClipGenerator.__init__(self, transformer, autoencoder, text_encoder, shape, sigmas)
