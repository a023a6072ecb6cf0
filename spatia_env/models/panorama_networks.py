"""The two networks of the imagination: layout at low resolution, and detail at full resolution.

Panoramas are equirectangular and level, as in `memory.panorama`: rows from +45 to -45 degrees, and the last column
meets the first, so every layer goes around. Colours and distances are coded as in `encode_colour` and
`encode_distance`.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = 7
"""Of a panorama in the layout network: red, green, blue, log distance, and how far it is ground, side and above."""
KNOWN = 5
"""Planes of what is known: red, green, blue and log distance, 0 where unknown, and 1 where known."""
MIDDLE_DISTANCE, DISTANCE_SCALE = 2.5, 1.2
"""Log distance is shifted and scaled to about the spread of colours."""
NEAREST, FARTHEST = 0.2, 30.0
"""Metres along the ray."""
BANDS = 8
"""Bands of elevation whose mean known colours are told to all layers."""
FOLD, ZOOM = 3, 6
"""Pixels along the edge of a cell of the detail network, and of a pixel of the layout."""


DETAIL_SCALE = 4.0
"""Colours differ so much less from the enlarged layout than from their mean: the flow of detail starts near its end."""


def encode_distance(distance: Tensor) -> Tensor:
    """Metres -> the networks' scale: 0 at 2.5 m, about 1 at 5.75 m."""
    return (distance.clamp(NEAREST, FARTHEST) / MIDDLE_DISTANCE).log() * DISTANCE_SCALE


def decode_distance(code: Tensor) -> Tensor:
    """The inverse of `encode_distance`."""
    return ((code / DISTANCE_SCALE).exp() * MIDDLE_DISTANCE).clamp(NEAREST, FARTHEST)


def encode_colour(rgb: Tensor) -> Tensor:
    """Colours in [0, 1] -> the networks' scale, [-2, 2], where they spread by about 0.5."""
    return 4 * rgb - 2


def decode_colour(code: Tensor) -> Tensor:
    """The inverse of `encode_colour`, within [0, 1]."""
    return ((code + 2) / 4).clamp(0, 1)


def known_means(known: Tensor, cell: int | tuple[int, int]) -> Tensor:
    """Means over the known pixels of each cell, and the known share: [B, 5, H, W] -> [B, 5, H / cell, W / cell]."""
    mean = F.avg_pool2d(known, cell)
    return torch.cat([mean[:, :4] / mean[:, 4:].clamp_min(1e-3), mean[:, 4:]], dim=1)


# -- layers -------------------------------------------------------------------------------------------------------


class CircularConv(nn.Conv2d):
    """A 3x3 convolution that goes around: zeros above and below, the other end left and right."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=(1, 0))

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H, W]."""
        return super().forward(torch.cat([x[..., -1:], x, x[..., :1]], dim=-1))


class ChannelNorm(nn.LayerNorm):
    """Normalises the channels of each cell, whatever the size of the picture."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape; channels-last stays so."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvBlock(nn.Module):
    """A 3x3 and a 1x1 convolution, modulated by an embedding in between; starts as the identity."""

    def __init__(self, channels: int, embedding: int, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels) if norm is None else norm
        self.conv1 = CircularConv(channels, channels)
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.conv2 = nn.Conv2d(channels, channels, 1)
        _start_at_zero(self.modulation, self.conv2)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """[B, channels, H, W] and [B, embedding] -> [B, channels, H, W]."""
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, 1)
        hidden = torch.addcmul(shift, self.conv1(self.norm(x)), 1 + scale)
        return x + self.conv2(F.silu(hidden))


class AroundAttention(nn.Module):
    """Self-attention over all cells of a small panorama; scores depend on the turn between columns and on rows."""

    def __init__(self, channels: int, rows: int, columns: int, heads: int, waves: int = 8) -> None:
        super().__init__()
        self.heads, self.waves = heads, waves
        self.norm = nn.GroupNorm(8, channels)
        self.query_key_value = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        _start_at_zero(self.out)
        self.turn = nn.Parameter(torch.zeros(heads, 2 * waves - 1))
        self.row = nn.Parameter(torch.zeros(heads, rows, rows))

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, rows, columns] -> the same shape."""
        n, channels, rows, columns = x.shape
        triple = self.query_key_value(self.norm(x)).reshape(n, 3, self.heads, -1, rows * columns)
        query, key, value = triple.transpose(-1, -2).unbind(1)
        heading = torch.arange(columns, device=x.device) * (2 * math.pi / columns)
        phase = torch.arange(self.waves, device=x.device)[:, None, None] * (heading - heading[:, None])
        waves = torch.cat([phase.cos(), phase[1:].sin()]).to(x.dtype)
        turn = torch.einsum("hf,fij->hij", self.turn, waves)
        bias = turn[:, None, :, None, :] + self.row[:, :, None, :, None]
        # Two products: at 64 cells this is faster on a CPU than the fused form, which takes no bias cheaply.
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        seen = torch.softmax(scores + bias.flatten(3).flatten(1, 2), dim=-1) @ value
        return x + self.out(seen.transpose(-1, -2).reshape(n, channels, rows, columns))


class Level(nn.Module):
    """Blocks at one resolution, which are told again what is known."""

    def __init__(self, channels: int, embedding: int, blocks: int) -> None:
        super().__init__()
        self.known = nn.Conv2d(KNOWN, channels, 1)
        self.blocks = nn.ModuleList(ConvBlock(channels, embedding) for _ in range(blocks))

    def forward(self, x: Tensor, known: Tensor, embedding: Tensor) -> Tensor:
        """[B, channels, H, W], what is known [B, 5, H, W] and [B, embedding] -> [B, channels, H, W]."""
        return _run(self.blocks, x + self.known(known), embedding)


def _run(blocks: Iterable[nn.Module], x: Tensor, embedding: Tensor) -> Tensor:
    for block in blocks:
        x = block(x, embedding)
    return x


def _start_at_zero(*layers: nn.Module) -> None:
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


def _waves_of(time: Tensor, count: int = 32) -> Tensor:
    """Cosines and sines [B, 2 count] of a time [B] in [0, 1]."""
    rate = torch.exp(torch.arange(count, device=time.device) * (-math.log(1000) / count))
    phase = 1000 * time[:, None] * rate
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


# -- networks -----------------------------------------------------------------------------------------------------


class LayoutNetwork(nn.Module):
    """Predicts the clean panorama [B, 7, H, W] at low resolution from a noisy one and what is known of it.

    Args:
        widths: Channels where a cell is 2, 4 and 8 pixels wide.
        blocks: Convolution blocks at the first and second of them, down and up each, and at the third.
        heads: Heads of attention.
        embedding: Channels of the time embedding.
        height: Rows of the panorama, a multiple of 8.
        width: Columns of the panorama, a multiple of 8.
    """

    def __init__(
        self,
        widths: tuple[int, int, int] = (48, 96, 224),
        blocks: tuple[int, int, int] = (1, 2, 5),
        heads: int = 4,
        embedding: int = 256,
        height: int = 32,
        width: int = 128,
    ) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.time = nn.Sequential(nn.Linear(64, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.summary = nn.Linear(KNOWN * BANDS, embedding)
        self.rows = nn.Parameter(torch.zeros(1, fine, height // 2, 1))
        self.stem = nn.Conv2d(4 * (CHANNELS + KNOWN), fine, 1)
        self.fine_down = nn.ModuleList(ConvBlock(fine, embedding) for _ in range(blocks[0]))
        self.to_middle = nn.Conv2d(fine, middle, 2, stride=2)
        self.middle_down = Level(middle, embedding, blocks[1])
        self.to_coarse = nn.Conv2d(middle, coarse, 2, stride=2)
        self.coarse = nn.ModuleList(Level(coarse, embedding, 1) for _ in range(blocks[2]))
        self.attention = nn.ModuleList(
            AroundAttention(coarse, height // 8, width // 8, heads) for _ in range(blocks[2] - 1)
        )
        self.from_coarse = nn.ConvTranspose2d(coarse, middle, 2, stride=2)
        self.middle_up = Level(middle, embedding, blocks[1])
        self.from_middle = nn.ConvTranspose2d(middle, fine, 2, stride=2)
        self.fine_up = nn.ModuleList(ConvBlock(fine, embedding) for _ in range(blocks[0] + 1))
        self.norm = nn.GroupNorm(8, fine)
        self.head = CircularConv(fine, 4 * CHANNELS)
        _start_at_zero(self.head)

    def forward(self, noisy: Tensor, time: Tensor, known: Tensor) -> Tensor:
        """The clean panorama [B, 7, H, W].

        Args:
            noisy: time * clean + (1 - time) * noise, [B, 7, H, W].
            time: [B] in [0, 1]; 0 is noise.
            known: What is known [B, 5, H, W].
        """
        dtype = self.stem.weight.dtype
        known_middle, known_coarse = (known_means(known, cell).to(dtype) for cell in (4, 8))
        bands = known_means(known, (known.shape[2] // BANDS, known.shape[3])).flatten(1)
        embedding = F.silu(self.time(_waves_of(time).to(dtype)) + self.summary(bands.to(dtype)))
        x = F.pixel_unshuffle(torch.cat([noisy, known], 1), 2).to(dtype)
        x = self.stem(x.contiguous(memory_format=torch.channels_last)) + self.rows
        fine = _run(self.fine_down, x, embedding)
        middle = self.middle_down(self.to_middle(fine), known_middle, embedding)
        x = self.to_coarse(middle)
        for number, level in enumerate(self.coarse):
            x = level(x, known_coarse, embedding)
            if number < len(self.attention):
                x = self.attention[number](x)
        x = self.middle_up(middle + self.from_coarse(x), known_middle, embedding)
        x = _run(self.fine_up, fine + self.from_middle(x), embedding)
        return F.pixel_shuffle(self.head(F.silu(self.norm(x))), 2).float()


class DetailNetwork(nn.Module):
    """Predicts detail and log distance [B, 4, H, W] at full resolution from noisy detail and the layout.

    Detail is what colours differ from those of the enlarged layout, times `DETAIL_SCALE`.

    Args:
        widths: Channels where a cell is 3 and 6 pixels wide; the second is as fine as the layout.
        blocks: Convolution blocks at the first of them, down and up each, and at the second.
        embedding: Channels of the embedding of time and of known textures.
        height: Rows of the panorama, a multiple of 24.
    """

    def __init__(
        self,
        widths: tuple[int, int] = (48, 96),
        blocks: tuple[int, int] = (2, 3),
        embedding: int = 128,
        height: int = 192,
    ) -> None:
        super().__init__()
        fine, coarse = widths
        self.time = nn.Sequential(nn.Linear(64, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.texture = nn.Sequential(
            nn.Conv2d(KNOWN * ZOOM**2, 64, 1), nn.SiLU(), nn.Conv2d(64, 64, 1), nn.SiLU()
        )
        self.summary = nn.Linear(65 * BANDS, embedding)
        self.rows = nn.Parameter(torch.zeros(1, fine, height // FOLD, 1))
        # Noisy detail, what is known, and the enlarged layout.
        self.stem = nn.Conv2d(FOLD**2 * (3 + KNOWN + CHANNELS), fine, 1)
        self.layout = CircularConv(CHANNELS, coarse)
        self.down = nn.ModuleList(ConvBlock(fine, embedding, ChannelNorm(fine)) for _ in range(blocks[0]))
        self.to_coarse = nn.Conv2d(fine, coarse, 2, stride=2)
        self.coarse = nn.ModuleList(
            ConvBlock(coarse, embedding, ChannelNorm(coarse)) for _ in range(blocks[1])
        )
        self.from_coarse = nn.ConvTranspose2d(coarse, fine, 2, stride=2)
        self.up = nn.ModuleList(ConvBlock(fine, embedding, ChannelNorm(fine)) for _ in range(blocks[0]))
        self.norm = ChannelNorm(fine)
        self.head = CircularConv(fine, FOLD**2 * 4)
        _start_at_zero(self.head)

    def _textures(self, known: Tensor) -> Tensor:
        """What known textures look like, by band of elevation, [B, 65 BANDS] of whole panoramas [B, 5, H, W]."""
        dtype = self.stem.weight.dtype
        share = F.avg_pool2d(known[:, 4:], ZOOM)
        cells = self.texture(
            F.pixel_unshuffle(known, ZOOM).to(dtype).contiguous(memory_format=torch.channels_last)
        )
        band = (share.shape[2] // BANDS, share.shape[3])
        total = F.avg_pool2d(cells.float() * share, band) / F.avg_pool2d(share, band).clamp_min(1e-3)
        return torch.cat([total, F.avg_pool2d(share, band)], dim=1).flatten(1)

    def forward(self, noisy: Tensor, time: Tensor, known: Tensor, layout: Tensor, whole: Tensor) -> Tensor:
        """Clean detail and log distance [B, 4, H, W] of panoramas, or of upright strips of them.

        Args:
            noisy: time * clean + (1 - time) * noise, detail [B, 3, H, W].
            time: [B] in [0, 1]; 0 is noise.
            known: What is known [B, 5, H, W].
            layout: Of the layout network [B, 7, H / 6, W / 6].
            whole: What is known of the whole panoramas [B / n, 5, H, 4 H], of n strips each.
        """
        dtype = self.stem.weight.dtype
        textures = self.summary(self._textures(whole).to(dtype)).repeat_interleave(
            len(noisy) // len(whole), 0
        )
        embedding = F.silu(self.time(_waves_of(time).to(dtype)) + textures)
        large = enlarge(layout)
        x = F.pixel_unshuffle(torch.cat([noisy, known, large], 1), FOLD).to(dtype)
        fine = _run(
            self.down, self.stem(x.contiguous(memory_format=torch.channels_last)) + self.rows, embedding
        )
        x = _run(self.coarse, self.to_coarse(fine) + self.layout(layout.to(dtype)), embedding)
        x = _run(self.up, fine + self.from_coarse(x), embedding)
        said = F.pixel_shuffle(self.head(F.silu(self.norm(x))), FOLD).float()
        return torch.cat([said[:, :3], large[:, 3:4] + said[:, 3:]], dim=1)


def enlarge(layout: Tensor) -> Tensor:
    """A layout [B, C, h, w] at full resolution [B, C, 6 h, 6 w], linearly and around."""
    around = torch.cat([layout[..., -1:], layout, layout[..., :1]], dim=-1)
    large = F.interpolate(around, scale_factor=ZOOM, mode="bilinear", align_corners=False)
    return large[..., ZOOM:-ZOOM]
