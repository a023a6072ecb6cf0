"""What scenes are made of, and which split each asset belongs to.

Furniture models and panoramas are shipped in `library/` (CC0; authors in its CREDITS files; made by
`convert_assets`), each with its split in a JSON file. Photographs come from the scikit-image wheel, other meshes from
the `pybullet_data` folder of the PyBullet wheel, everything else is generated. Nothing is downloaded.

Photographs (`skimage/data`), with the licence their loader in scikit-image states:

| id | split | licence |
|---|---|---|
| astronaut | train | public domain (NASA, Great Images) |
| coffee | train | CC0 (Rachel Michetti) |
| rocket | train | public domain (SpaceX) |
| hubble_deep_field | train | public domain (NASA) |
| camera | train | CC0 (Lav Varshney) |
| coins | train | no known copyright restrictions (Brooklyn Museum) |
| ihc | train | no known copyright restrictions |
| brick, grass, gravel | train | CC0 (CC0Textures / ambientCG) |
| chelsea | dev | CC0 (Stefan van der Walt) |
| moon | dev | public domain (NASA) |
| cell | test | CC0 |
| clock_motion | test | public domain (Stefan van der Walt) |

Meshes: `pybullet_data` (Bullet physics SDK, zlib licence; the duck is the COLLADA sample duck of Sony, SCEA
Shared Source; the bunny is Stanford's). `random_urdfs` are 1000 generated shapes: 000-799 train, 800-899 dev,
900-999 test. Procedural textures have ids `kind-NN`, NN = 00-39: the last digit 8 is dev, 9 is test.
"""

from __future__ import annotations

import functools
import importlib.resources
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from spatia_env.errors import SeedError
from spatia_env.sim.shapes import Mesh

LIBRARY = Path(__file__).parent / "library"

SPLITS = ("train", "dev", "test")
SEED_RANGES = {"train": range(0, 10000), "dev": range(10000, 11000), "test": range(20000, 20200)}
NUM_VARIANTS = 40

PHOTOS = {
    "train": ("astronaut", "coffee", "rocket", "hubble_deep_field", "camera", "coins", "ihc"),
    "dev": ("chelsea", "moon"),
    "test": ("cell", "clock_motion"),
}
PHOTO_SURFACES = ("grass", "gravel")  # train only; the other splits use procedural surfaces
OTHER_PHOTOS = {"train": ("brick", "grass", "gravel")}  # never on a wall, but good to learn from

# name -> (file, height in metres, rotation about x in quarter turns that makes it stand)
NAMED_MESHES = {
    "bunny": ("bunny.obj", 0.45, 0),
    "torus": ("torus/torus_textured.obj", 0.16, 0),
    "mug": ("objects/mug.obj", 0.34, 0),
    "lego": ("lego/lego.obj", 0.3, 0),
    "prism": ("toys/prism.obj", 0.4, 0),
    "duck": ("duck_vhacd.obj", 0.5, 1),
    "teddy": ("teddy2_VHACD_CHs.obj", 0.9, 0),
    "cone": ("racecar/meshes/cone.obj", 0.6, 0),
}
STATIC_MESHES = {"train": ("mug", "torus", "bunny"), "dev": ("lego",), "test": ("prism",)}
BLOB_RANGES = {"train": range(0, 800, 10), "dev": range(800, 900, 5), "test": range(900, 1000, 5)}


def split_of(seed: int) -> str:
    """The split ("train", "dev" or "test") that a scene seed belongs to.

    Raises:
        SeedError: the seed is not an integer of one of the three ranges.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise SeedError(f"scene seed: expected an integer, got {type(seed).__name__}.")
    for split, seeds in SEED_RANGES.items():
        if int(seed) in seeds:
            return split
    raise SeedError(f"scene seed {seed}: use 0-9999 (train), 10000-10999 (dev) or 20000-20199 (test).")


def texture_split(texture_id: str) -> str:
    """The split of a procedural texture id such as "planks-07"."""
    return {8: "dev", 9: "test"}.get(int(texture_id.rsplit("-", 1)[1]) % 10, "train")


def texture_ids(kind: str, split: str) -> list[str]:
    """All texture ids of one kind ("planks", "tiles", ...) in one split."""
    ids = [f"{kind}-{i:02d}" for i in range(NUM_VARIANTS)]
    return [name for name in ids if texture_split(name) == split]


def photo_ids(split: str) -> tuple[str, ...]:
    """Ids of the photographs of one split, for `load_photo`."""
    return PHOTOS[split] + OTHER_PHOTOS.get(split, ())


@functools.lru_cache(maxsize=32)
def load_photo(name: str) -> np.ndarray:
    """A photograph of the scikit-image wheel as uint8 [H, W, 3]; do not write to it.

    Raises:
        FileNotFoundError: the installed scikit-image does not ship this picture.
    """
    folder = Path(str(importlib.resources.files("skimage"))) / "data"
    for suffix in (".png", ".jpg"):
        if (folder / f"{name}{suffix}").is_file():
            with Image.open(folder / f"{name}{suffix}") as image:
                picture = np.asarray(image.convert("RGB"))
            picture.setflags(write=False)
            return picture
    raise FileNotFoundError(f"{folder}/{name}: not in this scikit-image; install scikit-image 0.22 or later.")


@functools.lru_cache(maxsize=1)
def furniture_index() -> dict[str, dict[str, Any]]:
    """The shipped models by name: role, title, author, split, size [3] in metres, height above the floor, triangles."""
    return json.loads((LIBRARY / "furniture.json").read_text())


@functools.lru_cache(maxsize=256)
def furniture_names(role: str, split: str) -> tuple[str, ...]:
    """Names of the models that serve as `role` ("sofa", "bed", ...) in one split; may be empty."""
    rows = furniture_index().items()
    return tuple(sorted(name for name, row in rows if row["role"] == role and row["split"] == split))


@functools.lru_cache(maxsize=128)
def load_furniture(name: str) -> tuple[Mesh, np.ndarray]:
    """A shipped model and its texture, uint8 [H, W, 3].

    It stands on z = 0 with the middle of its footprint at the origin, its back at +y, in metres.
    """
    from safetensors import safe_open

    with safe_open(LIBRARY / "furniture.safetensors", framework="np") as file:
        part = {
            key: file.get_tensor(f"{name}.{key}")
            for key in ("box", "vertices", "normals", "uvs", "triangles", "texture")
        }
    low, high = part["box"].astype(np.float64)
    mesh = Mesh(
        low + part["vertices"] / 65535 * (high - low),
        part["normals"] / 127.0,
        part["uvs"] / 65535.0,
        part["triangles"].astype(np.int64),
    )
    with Image.open(io.BytesIO(part["texture"].tobytes())) as picture:
        return mesh, np.asarray(picture.convert("RGB"))


@functools.lru_cache(maxsize=4)
def panorama_names(split: str) -> tuple[str, ...]:
    """Names of the panoramas of one split, for `load_panorama`."""
    rows = json.loads((LIBRARY / "panoramas.json").read_text()).items()
    return tuple(sorted(name for name, row in rows if row["split"] == split))


@functools.lru_cache(maxsize=32)
def load_panorama(name: str) -> np.ndarray:
    """An equirectangular photograph, uint8 [H, 2 H, 3], row 0 at the zenith; do not write to it."""
    with Image.open(LIBRARY / "panoramas" / f"{name}.jpg") as image:
        picture = np.asarray(image.convert("RGB"))
    picture.setflags(write=False)
    return picture


@functools.lru_cache(maxsize=256)
def load_mesh(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A mesh scaled to its height, standing on z = 0 above the origin, flat shaded.

    Args:
        name: a key of `NAMED_MESHES`, or "blob-NNN" for a shape of `random_urdfs`.

    Returns:
        vertices [n, 3] in metres, normals [n, 3] and triangles [m, 3] (vertex indices).
    """
    import pybullet_data

    root = Path(pybullet_data.getDataPath())
    if name.startswith("blob-"):
        number = name[5:]
        path, height, turns = root / "random_urdfs" / number / f"{number}.obj", 0.5, 1
    else:
        file, height, turns = NAMED_MESHES[name]
        path = root / file
    vertices, faces = read_obj(path)
    for _ in range(turns):
        vertices = np.stack([vertices[:, 0], -vertices[:, 2], vertices[:, 1]], axis=1)
    low, high = vertices.min(0), vertices.max(0)
    # Blobs differ wildly in shape: fit them into a cube; named meshes have a given height.
    extent = (high - low).max() if name.startswith("blob-") else high[2] - low[2]
    centre = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
    corners = ((vertices - centre) * (height / extent))[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normals, axis=1)
    corners, normals = corners[area > 1e-12], (normals / np.maximum(area, 1e-12)[:, None])[area > 1e-12]
    return corners.reshape(-1, 3), np.repeat(normals, 3, axis=0), np.arange(corners.size // 3).reshape(-1, 3)


def read_obj(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [n, 3] and triangles [m, 3] of a Wavefront file; polygons become fans."""
    vertices, faces = [], []
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("v "):
            vertices.append([float(x) for x in line.split()[1:4]])
        elif line.startswith("f "):
            corner = [int(token.split("/")[0]) for token in line.split()[1:]]
            corner = [c - 1 if c > 0 else len(vertices) + c for c in corner]
            faces += [[corner[0], corner[i], corner[i + 1]] for i in range(1, len(corner) - 1)]
    return np.array(vertices), np.array(faces)
