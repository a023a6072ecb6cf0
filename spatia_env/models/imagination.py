"""The imagination: completes an RGB-D panorama of which a part is known, differently for every generator.

```python
model = ImaginationModel()
generator = torch.Generator().manual_seed(0)
rgb, distance = model.complete(known_rgb, known_distance, known_mask, generator)
```

Flow matching with prediction of the clean panorama, in two stages: a layout at low resolution, where the choices are
made, then its detail at full resolution. Panoramas are those of `memory.panorama`.
"""

from collections.abc import Callable

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from spatia_env.errors import ActionError
from spatia_env.models.panorama_networks import (
    CHANNELS,
    DETAIL_SCALE,
    ZOOM,
    DetailNetwork,
    LayoutNetwork,
    decode_colour,
    decode_distance,
    encode_colour,
    encode_distance,
    enlarge,
    known_means,
)

LEAST_KNOWN = 0.5
"""A pixel of the layout is known if so much of it is."""


class ImaginationModel(ModelMixin, ConfigMixin):
    """The two networks of the imagination.

    Args:
        layout_widths: Channels of `LayoutNetwork`.
        layout_blocks: Its blocks.
        layout_heads: Its heads of attention.
        detail_widths: Channels of `DetailNetwork`; None for no such network: the layout is only enlarged then.
        detail_blocks: Its blocks.
        height: Rows of a panorama, a multiple of 48; it has four times as many columns.
    """

    @register_to_config
    def __init__(
        self,
        layout_widths: tuple[int, int, int] = (48, 96, 224),
        layout_blocks: tuple[int, int, int] = (1, 2, 5),
        layout_heads: int = 4,
        detail_widths: tuple[int, int] | None = (48, 96),
        detail_blocks: tuple[int, int] = (2, 3),
        height: int = 192,
    ) -> None:
        super().__init__()
        rows = height // ZOOM
        self.layout = LayoutNetwork(layout_widths, layout_blocks, layout_heads, height=rows, width=4 * rows)
        self.detail = DetailNetwork(detail_widths, detail_blocks, height=height) if detail_widths else None

    @torch.no_grad()
    def complete(
        self,
        known_rgb: Tensor,
        known_distance: Tensor,
        known_mask: Tensor,
        generator: torch.Generator,
        num_steps: int = 16,
        detail_steps: int = 4,
        guidance: float = 1.5,
    ) -> tuple[Tensor, Tensor]:
        """Whole panoramas that agree with what is known; another generator, other panoramas.

        Args:
            known_rgb: Colours [B, 3, H, W] in [0, 1], H and W those of the model.
            known_distance: Metres along the ray [B, H, W].
            known_mask: Where both are known, bool [B, H, W].
            generator: Draws the choices.
            num_steps: Evaluations of the layout network.
            detail_steps: Evaluations of the detail network; 0 only enlarges the layout.
            guidance: How far the layout is led by what is known (classifier-free guidance), at least 1. Colours
                keep closer to the known ones with more, and completions differ less.

        Returns:
            rgb [B, 3, H, W] in [0, 1] and distance [B, H, W] in metres; known pixels are those given.

        Raises:
            ActionError: The panoramas have another size, or no step is asked for.
        """
        self._check(known_rgb, known_distance, known_mask, num_steps)
        known = pack_known(known_rgb, known_distance, known_mask)
        layout = self.draw_layout(shrink_known(known), generator, num_steps, guidance)
        image = self.draw_detail(known, layout, generator, detail_steps)
        mask = known_mask[:, None]
        rgb = torch.where(mask, known_rgb.float(), decode_colour(image[:, :3]))
        return rgb, torch.where(known_mask, known_distance.float(), decode_distance(image[:, 3]))

    def draw_layout(
        self, known: Tensor, generator: torch.Generator, num_steps: int, guidance: float = 1.0
    ) -> Tensor:
        """A layout [B, 7, h, w] that agrees with what is known of it [B, 5, h, w]."""
        surfaces = torch.zeros_like(known[:, :3])
        fixed = torch.cat([known[:, :4], surfaces], dim=1)
        mask = torch.cat([known[:, 4:].expand(-1, 4, -1, -1), surfaces], dim=1)

        def clean(noisy: Tensor, time: Tensor) -> Tensor:
            if guidance == 1:
                return torch.lerp(self.layout(noisy, time, known), fixed, mask)
            both = torch.cat([torch.zeros_like(known), known])
            free, led = self.layout(torch.cat([noisy, noisy]), torch.cat([time, time]), both).chunk(2)
            return torch.lerp(torch.lerp(free, led, guidance), fixed, mask)

        noise = _noise((len(known), CHANNELS, *known.shape[2:]), generator, known)
        return integrate(clean, noise, num_steps)

    def draw_detail(
        self, known: Tensor, layout: Tensor, generator: torch.Generator, num_steps: int
    ) -> Tensor:
        """Colours and log distance [B, 4, H, W] of a layout [B, 7, h, w]; known pixels may differ from those given."""
        large = enlarge(layout)[:, :4]
        if self.detail is None or not num_steps:
            return large
        detail, distance = self.detail, [large[:, 3:]]
        fixed = (known[:, :3] - large[:, :3]) * DETAIL_SCALE

        def clean(noisy: Tensor, time: Tensor) -> Tensor:
            drawn, distance[0] = detail(noisy, time, known, layout, known).split([3, 1], dim=1)
            return torch.lerp(drawn, fixed, known[:, 4:])

        drawn = integrate(clean, _noise(known[:, :3].shape, generator, known), num_steps)
        return torch.cat([large[:, :3] + drawn / DETAIL_SCALE, distance[0]], dim=1)

    def _check(self, rgb: Tensor, distance: Tensor, mask: Tensor, num_steps: int) -> None:
        size = (self.config.height, 4 * self.config.height)
        if rgb.shape[1:] != (3, *size) or distance.shape != (len(rgb), *size) or mask.shape != distance.shape:
            raise ActionError(
                f"imagination: got panoramas {list(rgb.shape)}, distances {list(distance.shape)} and masks "
                f"{list(mask.shape)}; render them with {size[0]} rows and {size[1]} columns."
            )
        if num_steps < 1:
            raise ActionError(f"num_steps={num_steps}: use at least 1.")


def pack_known(rgb: Tensor, distance: Tensor, mask: Tensor) -> Tensor:
    """What is known [B, 5, H, W], as the networks take it, of [B, 3, H, W], [B, H, W] and bool [B, H, W]."""
    weight = mask[:, None].float()
    return torch.cat(
        [encode_colour(rgb) * weight, encode_distance(distance)[:, None] * weight, weight], dim=1
    )


def shrink_known(known: Tensor) -> Tensor:
    """What is known of the layout [B, 5, h, w], of what is known at full resolution."""
    mean = known_means(known, ZOOM)
    mask = (mean[:, 4:] >= LEAST_KNOWN).to(mean.dtype)
    return torch.cat([mean[:, :4] * mask, mask], dim=1)


def integrate(clean: Callable[[Tensor, Tensor], Tensor], noise: Tensor, num_steps: int) -> Tensor:
    """Follow the flow from `noise` [B, ...] to an image; `clean` predicts it from a noisy one at a time [B]."""
    x = noise
    for step in range(num_steps):
        time = torch.full((len(x),), step / num_steps, device=x.device)
        # The predicted image lies at time 1: a step of 1 / num_steps goes so much of the way that is left.
        x = torch.lerp(x, clean(x, time), 1 / (num_steps - step))
    return x


def _noise(shape: tuple[int, ...] | torch.Size, generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device).to(like.device)
