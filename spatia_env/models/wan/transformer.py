"""The transformer with diffusers' LoRA methods: `load_lora_adapter`, `add_adapter`, `set_adapters` and so on."""

from diffusers.loaders import PeftAdapterMixin

from spatia_env.models.transformer import SpatiaTransformer3DModel


class LoraTransformer3DModel(SpatiaTransformer3DModel, PeftAdapterMixin):
    """`SpatiaTransformer3DModel` that takes LoRA adapters; its folder and its weights are the same."""
