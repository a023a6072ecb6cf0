"""Low-rank adapters of the transformer, switched per clip: the release's own is silent in the first one."""

import warnings
from collections.abc import Mapping, Sequence

from torch import Tensor

from spatia_env.errors import ActionError, DependencyError
from spatia_env.models.transformer import SpatiaTransformer3DModel

AUTOREGRESSIVE = "autoregressive"
"""The release's LoRA, active from the second clip on."""
FEW_STEP = "few_step"
"""An optional distilled LoRA, active in every clip."""


class Adapters:
    """The adapters that a transformer carries. Weights stay as they are; an adapter adds B A x, unscaled.

    Args:
        transformer: Gets the adapters.
    """

    def __init__(self, transformer: SpatiaTransformer3DModel) -> None:
        self.transformer = transformer
        self.names: tuple[str, ...] = ()
        self.active: tuple[str, ...] = ()

    def add(self, name: str, layers: Mapping[str, Tensor]) -> None:
        """Add an adapter, inactive, from `<layer>.lora_A.weight` and `<layer>.lora_B.weight`.

        Raises:
            DependencyError: If peft is not installed.
        """
        from diffusers.utils import is_peft_available

        if not is_peft_available():
            raise DependencyError('a LoRA needs peft; run `pip install "spatia-env[official]"`.')
        weight = self.transformer.patch_embedding.weight
        state = {key: tensor.to(weight) for key, tensor in layers.items()}
        with warnings.catch_warnings():
            # peft asks whether a second adapter is meant: it is.
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            self.transformer.load_lora_adapter(state, prefix=None, adapter_name=name)
        self.names = (*self.names, name)
        self.activate(self.active)

    def activate(self, names: Sequence[str]) -> None:
        """Make exactly these adapters speak.

        Raises:
            ActionError: If one is not there.
        """
        unknown = set(names) - set(self.names)
        if unknown:
            raise ActionError(f"adapter {sorted(unknown)[0]!r}: is not loaded; there are {list(self.names)}.")
        if names:
            self.transformer.enable_lora()
            self.transformer.set_adapters(list(names), [1.0] * len(names))
        elif self.names:
            self.transformer.disable_lora()
        self.active = tuple(names)

    def for_clip(self, first: bool) -> None:
        """Activate what belongs to a first clip, or to a later one."""
        silent = {AUTOREGRESSIVE} if first else set()
        self.activate([name for name in self.names if name not in silent])
