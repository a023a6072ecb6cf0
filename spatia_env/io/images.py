"""Images: read and checked, fitted with their cameras to the size of the frames, converted, coloured, compared.

Sizes are read from the file's header before anything is decoded. NumPy and Pillow only; `to_float` and `to_uint8` take
tensors as well.
"""

import os
import stat
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from spatia_env.errors import ActionError, ImageError, PoseError
from spatia_env.io.atomic import replacing
from spatia_env.io.validation import as_real_array

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 64_000_000
MIN_SIDE = 8
MAX_ASPECT = 8.0
MAX_FILE_BYTES = 512 * 2**20
DEFAULT_FOV = 60.0
"""Horizontal field of view in degrees of a picture that comes without intrinsics."""
# Dark violet (near) to yellow (far), eight points of matplotlib's public-domain "viridis".
_VIRIDIS = np.array(
    [(68, 1, 84), (70, 50, 127), (54, 92, 141), (39, 127, 142), (31, 161, 135), (74, 194, 109), (159, 218, 58),
     (253, 231, 37)], np.float32,
)  # fmt: skip


def read_image(source: Any) -> np.ndarray:
    """A picture as uint8 [H, W, 3] RGB.

    Files are PNG, JPEG or WebP. Their EXIF rotation is applied; transparent pixels are put on white; CMYK,
    grey and palette pictures become RGB; 16-bit grey is divided by 257; of an animation the first frame is
    taken.

    Args:
        source: A path, or an array: uint8 [H, W, 3], [H, W, 4] or [H, W], or floats in [0, 1] of these shapes.

    Raises:
        ImageError: Not a readable PNG, JPEG or WebP; fewer than 8 pixels along a side, more than 64 megapixels,
            longer than 8 times its other side; an array of another kind.
    """
    if isinstance(source, str | os.PathLike):
        return _read_file(os.fspath(source))
    return _read_array(source)


def _read_file(path: str | bytes) -> np.ndarray:
    name = os.fsdecode(path)
    try:
        status = os.stat(path)
    except (OSError, ValueError) as cause:
        raise ImageError(f"{name!r}: cannot be opened ({cause}); check the path.") from cause
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{name!r}: is not a file.")
    if status.st_size > MAX_FILE_BYTES:
        raise ImageError(
            f"{name!r}: {status.st_size / 2**20:.0f} MB; the limit is {MAX_FILE_BYTES >> 20} MB."
        )
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures; the limit here is lower and is an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                _check_size(image.width, image.height, repr(name))
                image.seek(0)
                return _to_rgb(image)
    except Image.DecompressionBombError as cause:
        raise ImageError(f"{name!r}: has more than {MAX_PIXELS // 10**6} megapixels; shrink it.") from cause
    except Image.UnidentifiedImageError as cause:
        raise ImageError(f"{name!r}: is not a PNG, JPEG or WebP picture; convert it to one.") from cause
    except ImageError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, struct.error) as cause:
        # Pillow's decoders raise all of these for damaged files.
        raise ImageError(f"{name!r}: is damaged or truncated ({cause}).") from cause


def _to_rgb(image: Image.Image) -> np.ndarray:
    mode, has_alpha = image.mode, "transparency" in image.info or image.mode in ("RGBA", "LA", "PA")
    image = ImageOps.exif_transpose(image)
    if mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        grey8 = np.clip((grey + 128) // 257, 0, 255).astype(np.uint8)
        return np.repeat(grey8[..., None], 3, axis=-1)
    if has_alpha:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _read_array(source: Any) -> np.ndarray:
    if isinstance(source, Image.Image):
        _check_size(source.width, source.height, "image")
        return _to_rgb(source)
    array = source if isinstance(source, np.ndarray) else np.asarray(source)
    if array.dtype.kind not in "uf" or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,), (4,)):
        raise ImageError(
            f"image: expected a path or an array uint8 [H, W, 3], got {type(source).__name__} "
            f"({array.dtype} {list(array.shape)})."
        )
    _check_size(array.shape[1], array.shape[0], "image")
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ImageError("image: floats must be finite and in [0, 1]; use uint8 for 0 to 255.")
        array = to_uint8(array)
    if array.dtype != np.uint8:
        raise ImageError(f"image: expected uint8, got {array.dtype}; divide 16-bit values by 257.")
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array)))


def _check_size(width: int, height: int, name: str) -> None:
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{name}: is {width}x{height}; the shorter side has at least {MIN_SIDE} pixels.")
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name}: is {width}x{height}; shrink it to {MAX_PIXELS // 10**6} megapixels.")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(f"{name}: is {width}x{height}; crop it to at most {MAX_ASPECT:g} to 1.")


def fit_image(
    image: np.ndarray, height: int, width: int, intrinsics: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Resize a picture to cover `height` x `width`, crop it at the centre, and follow with its camera.

    Args:
        image: uint8 [H, W, 3].
        height: Pixels wanted.
        width: Pixels wanted.
        intrinsics: Camera of the *given* picture: `[fx, fy, cx, cy]` divided by its width and height, or a 3x3
            matrix in its pixels. None means square pixels, 60 degrees across, centred.

    Returns:
        The picture, uint8 [height, width, 3], and its K [3, 3] float32 in pixels.

    Raises:
        ImageError: If the picture is of no use, see `read_image`.
        PoseError: If the intrinsics are not those of a pinhole camera.
    """
    image = read_image(image)
    K = pixel_intrinsics(intrinsics, image.shape[0], image.shape[1])
    left, top, right, bottom = covering_box(image.shape[0], image.shape[1], height, width)
    picture = Image.fromarray(image)
    picture = picture.resize((width, height), Image.Resampling.LANCZOS, box=(left, top, right, bottom))
    shift = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]])
    K = np.diag([width / (right - left), height / (bottom - top), 1.0]) @ shift @ K
    return np.array(picture), K.astype(np.float32)


def fit_depth(depth: Any, image_size: tuple[int, int], height: int, width: int) -> np.ndarray:
    """The depth of a picture, cropped and resampled (nearest) as `fit_image` does with the picture.

    Args:
        depth: z-depth [H, W] in metres, of the picture's own size; NaN, infinite and negative values count as none.
        image_size: (H, W) of the picture before it was fitted.
        height: Pixels wanted.
        width: Pixels wanted.

    Returns:
        float32 [height, width], 0 = none.

    Raises:
        ImageError: If the depth is not numbers [H, W] of the picture's size.
    """
    values = _resample(as_real_array(depth, "depth", ImageError), "depth", image_size, height, width)
    return np.where(np.isfinite(values) & (values > 0), values, 0).astype(np.float32)


def fit_mask(mask: Any, image_size: tuple[int, int], height: int, width: int) -> np.ndarray:
    """A mask of a picture, bool [height, width], cropped and resampled (nearest) with it.

    Args:
        mask: bool or numbers [H, W] of the picture's own size, set where they are not 0.
        image_size: (H, W) of the picture before it was fitted.
        height: Pixels wanted.
        width: Pixels wanted.

    Raises:
        ImageError: If the mask is not [H, W] of the picture's size.
    """
    array = np.asarray(mask)
    values = array if array.dtype == bool else as_real_array(mask, "mask", ImageError) != 0
    return _resample(values, "mask", image_size, height, width).copy()


def _resample(
    values: np.ndarray, name: str, image_size: tuple[int, int], height: int, width: int
) -> np.ndarray:
    if values.shape != tuple(image_size):
        raise ImageError(
            f"{name}: is {list(values.shape)}, its picture is {list(image_size)}; sizes must agree."
        )
    left, top, right, bottom = covering_box(*image_size, height, width)
    rows = (top + (np.arange(height) + 0.5) * (bottom - top) / height).astype(int)
    columns = (left + (np.arange(width) + 0.5) * (right - left) / width).astype(int)
    return values[rows[:, None].clip(0, image_size[0] - 1), columns[None].clip(0, image_size[1] - 1)]


def covering_box(
    from_height: int, from_width: int, height: int, width: int
) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the largest centred box with the wanted proportions."""
    scale = min(from_width / width, from_height / height)
    left, top = (from_width - width * scale) / 2, (from_height - height * scale) / 2
    return left, top, left + width * scale, top + height * scale


def pixel_intrinsics(intrinsics: Any, height: int, width: int) -> np.ndarray:
    """K [3, 3] float64 in pixels of a picture, from any of the forms that `fit_image` takes.

    Raises:
        PoseError: A wrong shape, NaN, a focal length that is not positive or that no lens has, a skew.
    """
    if intrinsics is None:
        focal = width / 2 / np.tan(np.radians(DEFAULT_FOV) / 2)
        return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    values = as_real_array(intrinsics, "intrinsics", PoseError)
    if not np.isfinite(values).all():
        raise PoseError("intrinsics: have NaN or infinite entries.")
    if values.shape == (4,):
        fx, fy, cx, cy = values * [width, height, width, height]
        hint = "four numbers are divided by width and height; for pixels give the 3x3 matrix"
    elif values.shape == (3, 3):
        fx, fy, cx, cy = values[0, 0], values[1, 1], values[0, 2], values[1, 2]
        if np.abs(values - [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]).max() > 1e-6:
            raise PoseError("intrinsics: expected [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels.")
        hint = "a 3x3 matrix is in pixels of the picture; normalised, give [fx, fy, cx, cy]"
    else:
        raise PoseError(f"intrinsics: expected [4] or [3, 3], got {list(values.shape)}.")
    # A field of view between 3 and 170 degrees, and an axis that meets the picture or its surroundings.
    if not (0.04 * width < fx < 20 * width and 0.04 * height < fy < 20 * height):
        raise PoseError(
            f"intrinsics: focal lengths {fx:.4g}, {fy:.4g} px fit no {width}x{height} picture; {hint}."
        )
    if not (-width < cx < 2 * width and -height < cy < 2 * height):
        raise PoseError(
            f"intrinsics: the centre {cx:.4g}, {cy:.4g} px is far outside {width}x{height}; {hint}."
        )
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def to_float(image: Any) -> Any:
    """A uint8 array or tensor as float32 in [0, 1]."""
    return (image.astype(np.float32) if isinstance(image, np.ndarray) else image.float()) / 255


def to_uint8(image: Any) -> Any:
    """A float array or tensor in [0, 1] as uint8, rounded; values beyond are clipped."""
    if isinstance(image, np.ndarray):
        return np.rint(np.clip(image * 255, 0, 255)).astype(np.uint8)
    return (image * 255).round().clamp(0, 255).byte()


def psnr(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None, cap: float = 99.0) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 pictures [..., H, W, 3].

    Args:
        a: One picture, or several.
        b: The other, of the same shape.
        mask: bool [..., H, W], True where pixels count; None counts all.
        cap: The most that is returned, also for equal pictures.
    """
    squared = (a.astype(np.float64) - b.astype(np.float64)) ** 2
    error = float((squared if mask is None else squared[mask]).mean())
    return cap if error == 0 else float(min(cap, 10 * np.log10(255**2 / error)))


def depth_to_rgb(depth: np.ndarray, far: float | None = None) -> np.ndarray:
    """Colours, uint8 [..., H, W, 3], of z-depth [..., H, W]: violet is near, yellow far, black none.

    Args:
        depth: Metres, 0 = none.
        far: Depth of the last colour; None takes the 98th percentile of what is there.
    """
    depth = np.asarray(depth, dtype=np.float32)
    valid = depth > 0
    if far is None:
        far = float(np.percentile(depth[valid], 98)) if valid.any() else 1.0
    place = np.clip(depth / max(far, 1e-6), 0, 1) * (len(_VIRIDIS) - 1)
    channels = [np.interp(place, np.arange(len(_VIRIDIS)), _VIRIDIS[:, c]) for c in range(3)]
    return np.where(valid[..., None], np.stack(channels, axis=-1), 0).astype(np.uint8)


def mask_to_rgb(mask: np.ndarray) -> np.ndarray:
    """White where a mask [..., H, W] is set, dark grey elsewhere, uint8 [..., H, W, 3]."""
    grey = np.where(np.asarray(mask) > 0, 235, 40).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def contact_sheet(
    rows: Sequence[tuple[str, np.ndarray]],
    columns: Sequence[str] = (),
    cell_height: int = 128,
    gap: int = 4,
) -> Image.Image:
    """A picture of labelled rows of frames.

    Args:
        rows: (label, frames uint8 [N, H, W, 3]); rows may differ in N, all frames share one shape H x W.
        columns: A caption for each column, cut to its width.
        cell_height: Pixels; frames are resized to it.
        gap: Pixels between cells.

    Raises:
        ActionError: If there are no rows, or frames are not uint8 RGB.
    """
    if not rows:
        raise ActionError("contact_sheet: give at least one row.")
    for label, frames in rows:
        if frames.ndim != 4 or frames.dtype != np.uint8 or frames.shape[-1] != 3:
            raise ActionError(f"contact_sheet: row {label!r} is {frames.dtype} {list(frames.shape)}.")
    height, width = rows[0][1].shape[1:3]
    cell_width = max(1, round(width * cell_height / height))
    font = ImageFont.load_default(size=13)
    margin = gap + max(round(font.getlength(label)) for label, _ in rows) + 2 * gap
    header = 22 if columns else gap
    count = max(len(frames) for _, frames in rows)
    size = (margin + count * (cell_width + gap), header + len(rows) * (cell_height + gap))
    sheet = Image.new("RGB", size, (250, 250, 248))
    draw = ImageDraw.Draw(sheet)
    for index, caption in enumerate(columns[:count]):
        draw.text(
            (margin + index * (cell_width + gap), 4), _cut(caption, font, cell_width), (60, 60, 60), font=font
        )
    for row, (label, frames) in enumerate(rows):
        top = header + row * (cell_height + gap)
        draw.text((gap, top + cell_height // 2 - 8), label, (60, 60, 60), font=font)
        for column, frame in enumerate(frames):
            cell = Image.fromarray(frame).resize((cell_width, cell_height), Image.Resampling.LANCZOS)
            sheet.paste(cell, (margin + column * (cell_width + gap), top))
    return sheet


def write_sheet(path: str | Path, sheet: Image.Image) -> Path:
    """Write a picture as png; it appears under its name when it is complete."""
    with replacing(path, "picture") as stream:
        sheet.save(stream, "PNG")
    return Path(path)


def _cut(text: str, font: Any, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."
