import contextlib
import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from spatia_env.errors import ImageError, PoseError, SpatiaError
from spatia_env.io import images as pictures
from spatia_env.io.images import fit_depth, fit_image, fit_mask, pixel_intrinsics, psnr, read_image

H, W = 30, 50


def gradient(height: int = H, width: int = W) -> np.ndarray:
    v, u = np.mgrid[:height, :width]
    return np.stack([u * 255 // width, v * 255 // height, (u + v) % 256], axis=-1).astype(np.uint8)


def save(path, image: Image.Image, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_lossless_files_come_back_exactly(tmp_path, name):
    path = save(tmp_path / name, Image.fromarray(gradient()), lossless=True)
    for source in (path, str(path)):
        image = read_image(source)
        assert image.dtype == np.uint8 and np.array_equal(image, gradient())


def test_jpeg(tmp_path):
    image = read_image(save(tmp_path / "a.jpg", Image.fromarray(gradient(64, 96)), quality=95))
    assert image.shape == (64, 96, 3) and psnr(image, gradient(64, 96)) > 28


def test_the_name_does_not_matter_the_content_does(tmp_path):
    assert read_image(save(tmp_path / "a.txt", Image.fromarray(gradient()), format="PNG")).shape == (H, W, 3)
    with pytest.raises(ImageError, match="not a PNG, JPEG or WebP"):
        read_image(save(tmp_path / "a.png", Image.fromarray(gradient()), format="TIFF"))


def test_documented_conversions(tmp_path):
    rgb = Image.fromarray(gradient())
    cmyk = read_image(save(tmp_path / "cmyk.jpg", rgb.convert("CMYK"), quality=100))
    assert cmyk.shape == (H, W, 3)
    alpha = np.dstack([gradient(), np.zeros((H, W), np.uint8)])
    alpha[:, :20, 3] = 255
    image = read_image(save(tmp_path / "alpha.png", Image.fromarray(alpha)))
    assert np.array_equal(image[:, :20], gradient()[:, :20]) and (image[:, 20:] == 255).all()
    grey16 = (np.arange(H * W).reshape(H, W) * 40).astype(np.uint16)
    image = read_image(save(tmp_path / "grey16.png", Image.fromarray(grey16)))
    assert np.abs(image[..., 0] - grey16 / 257).max() <= 0.51 and np.array_equal(image[..., 0], image[..., 2])
    image = read_image(save(tmp_path / "grey.png", rgb.convert("L")))
    assert np.array_equal(image[..., 0], np.asarray(rgb.convert("L")))
    palette = read_image(save(tmp_path / "p.png", rgb.quantize(16)))
    assert palette.shape == (H, W, 3)
    bilevel = read_image(save(tmp_path / "1.png", rgb.convert("1")))
    assert set(np.unique(bilevel)) == {0, 255}


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    path = save(tmp_path / "a.png", Image.fromarray(gradient()), exif=exif)
    assert np.array_equal(read_image(path), np.rot90(gradient(), -1))


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.fromarray(np.full((H, W, 3), value, np.uint8)) for value in (10, 200, 250)]
    path = save(
        tmp_path / "a.webp", frames[0], save_all=True, append_images=frames[1:], lossless=True, format="WEBP"
    )
    assert (read_image(path) == 10).all()


def huge_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def png_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(gradient(200, 300)).save(buffer, "PNG")
    return buffer.getvalue()


def broken_exif() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(gradient()).save(buffer, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    return buffer.getvalue()


BAD_FILES = {
    "empty": b"",
    "one byte": b"\x89",
    "text": b"not a picture",
    "truncated": png_bytes()[:400],
    "cut header": png_bytes()[:20],
    "50000 squared": huge_png(50_000, 50_000),
    "12000 squared": huge_png(12_000, 12_000),
    "2^31 wide": huge_png(2**31 - 1, 1),
    "no pixels": huge_png(0, 0),
    "one pixel": huge_png(1, 1),
    "a line": huge_png(4000, 9),
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "psd": b"8BPS\0\1" + b"\0" * 40,
    "fits": b"SIMPLE  =                    T" + b" " * 2850,
    "gif": b"GIF89a" + b"\0" * 40,
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_bad_files(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert "a.png" in str(caught.value)


def test_damaged_bytes_never_escape_as_another_error(tmp_path):
    """Flip bytes all over a PNG, a JPEG and a WebP: a picture or an ImageError, nothing else."""
    rng = np.random.default_rng(0)
    path = tmp_path / "a"
    for form in ("PNG", "JPEG", "WEBP"):
        buffer = io.BytesIO()
        Image.fromarray(gradient()).save(buffer, form, exif=broken_exif()[6:60])
        whole = np.frombuffer(buffer.getvalue(), np.uint8)
        for _ in range(60):
            bad = whole.copy()
            bad[rng.integers(0, len(bad), 3)] = rng.integers(0, 256, 3)
            path.write_bytes(bad[: rng.integers(len(bad) // 2, len(bad) + 1)].tobytes())
            with contextlib.suppress(ImageError):
                assert read_image(path).shape[2] == 3


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(broken_exif())
    assert read_image(path).shape == (H, W, 3)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "none.png", tmp_path / "fifo", "/dev/zero", "a\0b", "x" * 5000):
        with pytest.raises(ImageError):
            read_image(path)


GOOD_ARRAYS = {
    "rgb": gradient(),
    "grey": gradient()[..., 0],
    "rgba": np.dstack([gradient(), np.full((H, W), 255, np.uint8)]),
    "floats": gradient() / 255.0,
    "not contiguous": gradient()[:, ::-1],
}


@pytest.mark.parametrize("array", GOOD_ARRAYS.values(), ids=GOOD_ARRAYS.keys())
def test_arrays(array):
    image = read_image(array)
    assert image.dtype == np.uint8 and image.shape == (H, W, 3)
    assert not np.shares_memory(image, array)


@pytest.mark.parametrize(
    "array",
    [
        None,
        3,
        np.zeros((H, W, 2), np.uint8),
        np.zeros((H, W, 3), np.int64),
        np.zeros((H, W, 3), np.uint16),
        np.zeros((2, H, W, 3), np.uint8),
        np.full((H, W, 3), np.nan),
        np.full((H, W, 3), 2.0),
        np.zeros((0, 0, 3), np.uint8),
        np.zeros((H, W, 3), object),
        np.broadcast_to(np.uint8(0), (10_000, 10_000, 3)),
    ],
    ids=lambda a: f"{getattr(a, 'dtype', a)}{getattr(a, 'shape', '')}",
)
def test_bad_arrays(array):
    with pytest.raises(ImageError):
        read_image(array)


# -- fitting ---------------------------------------------------------------------------------------------


def test_photograph_without_intrinsics_is_sixty_degrees_across():
    image, K = fit_image(gradient(90, 160), 90, 160)
    assert np.array_equal(image, gradient(90, 160))
    assert 2 * np.degrees(np.arctan(80 / K[0, 0])) == pytest.approx(60, abs=1e-4)
    assert K[0, 0] == K[1, 1] and K[0, 2] == 80 and K[1, 2] == 45 and K.dtype == np.float32


def test_crop_keeps_the_camera():
    """What a pixel of a fitted picture shows lies on the ray that its K says."""
    image, K = fit_image(gradient(90, 160), 60, 60)
    assert image.shape == (60, 60, 3)
    original = pixel_intrinsics(None, 90, 160)
    for u, v in ((0, 0), (59, 20), (30, 59)):
        ray = np.linalg.inv(K) @ [u + 0.5, v + 0.5, 1]
        there = original @ ray
        red, green = there[0] / 160 * 255, there[1] / 90 * 255
        assert np.abs(image[v, u, :2].astype(float) - [red, green]).max() < 4


def test_fit_covers_and_centres():
    assert pictures.covering_box(90, 160, 60, 60) == (35, 0, 125, 90)
    assert pictures.covering_box(160, 90, 60, 60) == (0, 35, 90, 125)
    left, top, right, bottom = pictures.covering_box(90, 160, 64, 128)
    assert (left, right) == (0, 160) and top == pytest.approx(5) and bottom == pytest.approx(85)


def test_intrinsics_in_both_forms_agree():
    normalised = [0.8, 1.4, 0.52, 0.49]
    pixels = [[0.8 * 160, 0, 0.52 * 160], [0, 1.4 * 90, 0.49 * 90], [0, 0, 1]]
    a, b = (fit_image(gradient(90, 160), 64, 96, form)[1] for form in (normalised, pixels))
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_off_centre_intrinsics_move_with_the_crop():
    _, K = fit_image(gradient(90, 160), 90, 90, [0.5, 0.9, 0.25, 0.5])
    np.testing.assert_allclose(K, [[80, 0, 40 - 35], [0, 81, 45], [0, 0, 1]], atol=1e-4)


@pytest.mark.parametrize(
    "intrinsics",
    [
        [500, 500, 80, 45],
        [0, 1, 0.5, 0.5],
        [-1, 1, 0.5, 0.5],
        [1, 1, 0.5],
        [np.nan, 1, 0.5, 0.5],
        [1, 1, 9, 0.5],
        np.eye(3),
        np.array([[100, 5, 80], [0, 100, 45], [0, 0, 1]]),
        np.array([[100, 0, 80], [0, 100, 45], [0, 0, 0]]),
        "wide",
        np.full((3, 3), np.inf),
    ],
    ids=str,
)
def test_bad_intrinsics(intrinsics):
    with pytest.raises(PoseError, match="intrinsics"):
        fit_image(gradient(90, 160), 64, 96, intrinsics)


def test_depth_follows_its_picture():
    depth = np.arange(90 * 160, dtype=np.float32).reshape(90, 160) + 1
    depth[0, 40], depth[1, 40], depth[2, 40] = np.nan, np.inf, -3
    fitted = fit_depth(depth, (90, 160), 90, 90)
    assert fitted.dtype == np.float32
    assert fitted[:3, 5].tolist() == [0, 0, 0]
    assert np.array_equal(fitted[3:], depth[3:, 35:125])
    half = fit_depth(depth, (90, 160), 45, 80)
    assert half[10, 10] in depth[20:22, 20:22]
    for bad in (depth.T, depth[0], "deep", None):
        with pytest.raises(ImageError, match="depth"):
            fit_depth(bad, (90, 160), 90, 90)


def test_mask_follows_its_picture():
    mask = np.zeros((90, 160), bool)
    mask[10:20, 40:50] = True
    for form in (mask, mask.astype(np.uint8) * 255, mask.astype(float)):
        fitted = fit_mask(form, (90, 160), 90, 90)
        assert fitted.dtype == bool and fitted.sum() == 100 and fitted[10, 5]
        assert not np.shares_memory(fitted, form)
    with pytest.raises(SpatiaError, match="sizes must agree"):
        fit_mask(mask.T, (90, 160), 90, 90)


def test_psnr():
    black, white = np.zeros((4, 6, 3), np.uint8), np.full((4, 6, 3), 255, np.uint8)
    assert psnr(black, black) == 99 and psnr(black, white) == 0
    assert psnr(black, black + 16) == pytest.approx(10 * np.log10(255**2 / 256))
    mixed = black.copy()
    mixed[:, :3] = 255
    mask = np.zeros((4, 6), bool)
    mask[:, 3:] = True
    assert psnr(black, mixed, mask) == 99 and psnr(black, mixed) < 4
