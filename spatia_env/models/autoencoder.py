"""The tiny autoencoder: one frame at a time, 16x smaller, 48 channels, with a decoder that sees the render.

Pixel-unshuffle stages and residual convolutions, no attention and no norm layers, because it has to train and
run on a CPU. Like every autoencoder of the pipeline it has `encode`, `decode`, `spatial_stride`,
`temporal_stride` and `latent_channels`. It knows neither cameras nor text.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F


def knows_bfloat16() -> bool:
    """Whether the processor multiplies matrices in bfloat16."""
    return bool(torch.cpu._is_avx512_bf16_supported())


@contextmanager
def reduced(device: torch.device, wanted: bool = True) -> Iterator[None]:
    """Context in which products of matrices and convolutions are taken in bfloat16 and summed in float32.

    On a CPU that knows bfloat16; elsewhere, and if it is not `wanted`, it changes nothing. What comes out is
    bfloat16 then. Latents differ by 0.4 % (root mean square), at play as in training.
    """
    if not (wanted and device.type == "cpu" and knows_bfloat16()):
        yield
        return
    with torch.autocast("cpu", torch.bfloat16):
        yield


HEAD_CHANNELS = 7
"""Output planes per pixel: imagined colour (3), how much of the render to show (1), its light (3)."""

SHARE_SLOPE = 3.0
"""Steepness of the render's share: a plain sigmoid mixed 15 % of imagined colour into surfaces that are known."""
DOUBT = -1.0
"""Logit with which a fresh decoder distrusts what continues the render."""
REST_OF_LIGHT = 0.1
"""Changes of light (in log gain) below it are none: what the map remembers is then shown as it is. Without it and
the slope, known pixels lay 1.3 dB lower; at 0.06, what was left of light was 95 % of the error after a return."""


def zero(layer: nn.Conv2d, bias: float = 0.0) -> None:
    """Start a layer at zero, or at a bias, so that what it adds is nothing until it has learnt something."""
    for name, parameter in layer.named_parameters():
        nn.init.constant_(parameter, bias if name == "bias" else 0.0)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around SiLU; the second starts at zero, so a fresh block is the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        zero(self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        """Features [N, C, H, W] to features of the same shape."""
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class Decoded(NamedTuple):
    """What the decoder shows, and how much of it is the render's.

    Attributes:
        shown: Images [N, 3, H, W].
        share: Of the render [N, 1, H, W]; None without a render.
        light: Gain of the render's colours in it, counted from black [N, 3, H, W]; None without a render.
        beyond: Share of what continues the render [N, 1, H, W]; None without.
    """

    shown: Tensor
    share: Tensor | None = None
    light: Tensor | None = None
    beyond: Tensor | None = None


class TinyAutoencoder(ModelMixin, ConfigMixin):
    """Per-frame residual autoencoder.

    Args:
        latent_channels: Channels of the latents.
        channels: Widths at strides 4, 8 and 16.
        encoder_blocks: Residual blocks at each stride of the encoder.
        decoder_blocks: Residual blocks at each stride of the decoder, from stride 16 up.
        falling_planes: Planes at pixel size that tell the decoder where small things would fall (`falling`).
        continued_planes: 4 for a decoder that is told how surfaces go on beyond the render
            (`slam.plane_extrapolation.Continued.planes`), and may show them; 0 for one that is not.
    """

    spatial_stride = 16
    temporal_stride = 1

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 48,
        channels: tuple[int, int, int] = (96, 160, 208),
        encoder_blocks: tuple[int, int, int] = (2, 2, 2),
        decoder_blocks: tuple[int, int, int] = (2, 2, 3),
        falling_planes: int = 0,
        continued_planes: int = 0,
    ) -> None:
        super().__init__()
        fine, middle, coarse = channels
        self.latent_channels = latent_channels
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, fine, 3, padding=1),
            *(ResidualBlock(fine) for _ in range(encoder_blocks[0])),
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * fine, middle, 1),
            *(ResidualBlock(middle) for _ in range(encoder_blocks[1])),
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * middle, coarse, 1),
            *(ResidualBlock(coarse) for _ in range(encoder_blocks[2])),
            nn.Conv2d(coarse, latent_channels, 1),
        )
        self.decoder_coarse = nn.Sequential(
            nn.Conv2d(latent_channels, coarse, 3, padding=1),
            *(ResidualBlock(coarse) for _ in range(decoder_blocks[2])),
            nn.Conv2d(coarse, 4 * middle, 1),
            nn.PixelShuffle(2),
            *(ResidualBlock(middle) for _ in range(decoder_blocks[1])),
            nn.Conv2d(middle, 4 * fine, 1),
            nn.PixelShuffle(2),
        )
        self.render_in = nn.Conv2d(4 * 16, fine, 3, padding=1)
        self.decoder_fine = nn.Sequential(*(ResidualBlock(fine) for _ in range(decoder_blocks[0])))
        self.head = nn.Conv2d(fine, HEAD_CHANNELS * 16, 3, padding=1)
        zero(self.render_in)
        if falling_planes:
            self.falling_in = nn.Conv2d(falling_planes * 16, fine, 3, padding=1)
            zero(self.falling_in)
        if continued_planes:
            self.continued_in = nn.Conv2d(continued_planes * 16, fine, 3, padding=1)
            self.continued_head = nn.Conv2d(fine, 16, 3, padding=1)
            zero(self.continued_in)
            zero(self.continued_head, DOUBT)
        # Statistics of the raw latents, so that the world model sees zero mean and unit variance.
        self.register_buffer("latent_mean", torch.zeros(latent_channels))
        self.register_buffer("latent_std", torch.ones(latent_channels))

    def encode_raw(self, images: Tensor) -> Tensor:
        """Latents [N, C, H/16, W/16] of images [N, 3, H, W] before normalisation (training only)."""
        return self.encoder(images.contiguous(memory_format=torch.channels_last))

    def encode(self, frames: Tensor) -> Tensor:
        """Normalised latents [B, C, T, H/16, W/16] of frames [B, 3, T, H, W] in [-1, 1]."""
        with reduced(frames.device, wanted=not torch.is_grad_enabled()):
            raw = self.encode_raw(_to_images(frames))
        return _to_video(self.normalise(raw.to(frames.dtype)), frames.shape[0])

    def normalise(self, raw: Tensor) -> Tensor:
        """Raw latents [N, C, h, w] to zero mean and unit variance."""
        return (raw - self.latent_mean[:, None, None]) / self.latent_std[:, None, None]

    def denormalise(self, latents: Tensor) -> Tensor:
        """Normalised latents [N, C, h, w] to raw ones."""
        return latents * self.latent_std[:, None, None] + self.latent_mean[:, None, None]

    def decode(
        self,
        latents: Tensor,
        scene_render: Tensor | None = None,
        known: Tensor | None = None,
        falling: Tensor | None = None,
        continued: Tensor | None = None,
    ) -> Tensor:
        """Frames [B, 3, T, H, W] in [-1, 1] of normalised latents [B, C, T, H/16, W/16].

        Args:
            latents: Normalised latents.
            scene_render: Optional render of the map [B, 3, T, H, W] in [-1, 1]. Where it is known, the
                decoder may show it, relit, instead of drawing the surface from 48 numbers.
            known: Mask [B, 1, T, H, W], 1 where the render is covered.
            falling: Planes [B, 2, T, H, W], 1 where flakes and balls would be; ignored without `falling_planes`.
            continued: Planes [B, 4, T, H, W] of how surfaces go on where the render is not known: colours in
                [-1, 1], and nearness, 0 where none does; ignored without `continued_planes`.
        """
        z = self.denormalise(_to_images(latents))
        render = None if scene_render is None else _to_images(scene_render)
        mask = None if known is None else _to_images(known)
        falls = None if falling is None else _to_images(falling)
        goes_on = None if continued is None else _to_images(continued)
        return _to_video(self.decode_parts(z, render, mask, falls, goes_on).shown, latents.shape[0])

    def decode_raw(self, raw: Tensor, render: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        """Images [N, 3, H, W] of raw latents [N, C, h, w], a render [N, 3, H, W] and its mask [N, 1, H, W]."""
        return self.decode_parts(raw, render, known).shown

    def decode_parts(
        self,
        raw: Tensor,
        render: Tensor | None = None,
        known: Tensor | None = None,
        falling: Tensor | None = None,
        continued: Tensor | None = None,
    ) -> Decoded:
        """As `decode_raw`, with the planes [N, 2, H, W] of what would fall and [N, 4, H, W] of what goes on beyond the
        render; says what is the render's, too.
        """
        # What is known is shown by the fine part, which stays exact; backward convolutions would be slower.
        with reduced(raw.device, wanted=not torch.is_grad_enabled()):
            x = self.decoder_coarse(raw.contiguous(memory_format=torch.channels_last)).to(raw.dtype)
        if falling is not None and self.config.falling_planes:
            x = x + self.falling_in(F.pixel_unshuffle(falling, 4))
        if render is not None and known is not None:
            x = x + self.render_in(F.pixel_unshuffle(torch.cat([render * known, known], dim=1), 4))
        if render is None or known is None or not self.config.continued_planes:
            continued = None
        if continued is not None:
            x = x + self.continued_in(F.pixel_unshuffle(continued, 4))
        features = self.decoder_fine(x)
        planes = F.pixel_shuffle(self.head(features), 4)
        colour = planes[:, :3]
        if render is None or known is None:
            return Decoded(colour)
        # Work in [0, 1] where light is a gain: night, fog and coloured lamps scale what the map remembers.
        share = _steep(planes[:, 3:4]) * known
        light = F.softshrink(math.log(2) + F.logsigmoid(planes[:, 4:]), REST_OF_LIGHT).exp()
        beyond = None
        if continued is not None:
            goes_on = (continued[:, 3:] > 0).to(known.dtype) * (1 - known)
            beyond = _steep(F.pixel_shuffle(self.continued_head(features), 4)) * goes_on
            colour = colour + beyond * ((continued[:, :3] + 1) * light - 1 - colour)
        lit = (render + 1) * light - 1
        return Decoded(colour + share * (lit - colour), share, light, beyond)


def _steep(logit: Tensor) -> Tensor:
    """A steep sigmoid that learns like a plain one: where it is nearly 1 its own slope would teach nothing."""
    steep = torch.sigmoid(SHARE_SLOPE * logit)
    if not torch.is_grad_enabled():
        return steep
    plain = torch.sigmoid(logit)
    return steep.detach() + plain - plain.detach()


def _to_images(video: Tensor) -> Tensor:
    return video.transpose(1, 2).flatten(0, 1)


def _to_video(images: Tensor, batch: int) -> Tensor:
    return images.unflatten(0, (batch, -1)).transpose(1, 2)
