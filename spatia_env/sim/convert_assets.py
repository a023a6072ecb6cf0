"""Convert furniture and panoramas of other packages into the data of `spatia_env/sim/library`.

    python -m spatia_env.sim.convert_assets furniture --sh3f BlendSwap-CC-0.sh3f --out spatia_env/sim/library
    python -m spatia_env.sim.convert_assets panoramas --packed node_modules/@pmndrs/assets/hdri
        --exr /usr/share/blender/datafiles/studiolights/world --out spatia_env/sim/library

Furniture is read from a catalogue of Sweet Home 3D (a zip of Wavefront files; Debian: `sweethome3d-furniture`), brought
to its catalogue size, decimated and written with one small texture a model. Only models whose licence files say
Creative Commons Zero are taken. Panoramas are equirectangular OpenEXR pictures (npm: `@pmndrs/assets`, Debian:
`blender-data`); they are tone-mapped to JPEG. Reading them needs the package `OpenEXR`.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import itertools
import json
import math
import re
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from spatia_env.errors import DependencyError
from spatia_env.io.mesh import import_open3d

# What each model is used as; the name is that of its folder in the catalogue.
ROLES = {
    "bed": "bed1 bed2 bed3 bedWithTexture",
    "nightstand": "bedsideTable2",
    "wardrobe": "wardrobeWithSlidingDoors cupboard",
    "bookcase": "bookcase shelves verticalShelves",
    "tv stand": "televisionCabinet",
    "television": "led_tv",
    "sofa": "couch couch2 sofa2 L_shaped_sofa sofa",
    "armchair": "armchair2 modernArmchair designChair",
    "chair": "oakChair plasticChair sillaBlanca chair antiqueChair chairWithCushion chair2 thonet osakaChair",
    "office chair": "armchair",
    "table": "oakTable table tableWithTablecloth",
    "desk": "desk lbDesk technicalTable1 technicalTable2",
    "piano": "pianoAQueue",
    "piano bench": "pianoBench",
    "whiteboard": "whiteBoard",
    "plant": "decorativePlant plant orchids augalas",
    "small plant": "littlePlant cactus",
    "table lamp": "desklamp JapaneseLantern",
    "ceiling lamp": "lamp2 ceilingFan outdoorLamp",
    "wall lamp": "wallLight",
    "radiator": "radiator radiator1 radiator2 radiator3",
    "kitchen cabinet": "drawersCabinet lowerCabinet sinkCabinet islandExtension",
    "wall cabinet": "glassDoorCabinet smallUpperCabinet upperCabinet upperShelves",
    "tall cabinet": "highCabinet doubleOven",
    "refrigerator": "refrigerator largeFridge",
    "stool": "silla2 stool stool2",
    "kitchen appliance": "coffeeBrewer kitchenaid bread",
    "toilet": "toiletsUnit bidet",
    "washbasin": "washbasin modernVanity",
    "shower": "showerStall",
    "towel rack": "towel3 towel2",
    "dustbin": "dustbin",
    "crib": "babyRockingBed",
    "toy": "caballito teddyBear basketball",
    "bag": "briefcase handbag",
    "box": "crate ammoBox box",
    "barrel": "barrel",
    "speaker": "speaker2 speaker3",
    "fan": "tableFan riggedFan",
    "guitar": "electricGuitar",
    "clock": "cuckooClock",
    "game table": "poolTable table_football",
    "mat": "tatami",
    "bench": "bench",
    "garden chair": "relaxChair deckChair foldingChair",
    "parasol": "umbrella",
    "playground": "childHut childSwing seesaw",
    "wheelbarrow": "wheelbarrow",
    "mailbox": "mofx_mailbox",
    "lantern": "lantern stoneLantern",
    "rock": "rock1 rock2 rock3",
    "motorbike": "motorbike",
    "pallet": "pallet",
    "flower box": "flowerBox plantie",
}
PANORAMA_SPLITS = {
    "dev": ("city-2", "venice", "forest", "hall"),
    "test": ("lobby", "lab", "workshop", "bridge", "park", "interior", "courtyard", "dawn"),
}
SAME_PANORAMAS = {"sunrise"}  # of the packed ones: the other package has the same photograph, larger
CELL = 96  # texels along the picture of a textured material
SWATCH = 16  # texels along a plain material: two blocks of JPEG, so that colours do not mix
OPAQUE = 0.4  # materials below this opacity are glass, which the renderer cannot show


@dataclasses.dataclass(frozen=True)
class Material:
    """A colour, RGB in [0, 1], or a picture u8 [H, W, 3]."""

    colour: tuple[float, float, float]
    opacity: float = 1.0
    picture: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Soup:
    """Triangles with a material each: corners f64 [n, 3, 3], uvs f64 [n, 3, 2], material i64 [n]."""

    corners: np.ndarray
    uvs: np.ndarray
    material: np.ndarray


# -- reading ------------------------------------------------------------------------------------------------------


def read_catalogue(archive: zipfile.ZipFile) -> list[dict[str, str]]:
    """The rows of a furniture catalogue, one dict of properties a model."""
    rows: dict[int, dict[str, str]] = {}
    for line in archive.read("PluginFurnitureCatalog.properties").decode("latin-1").splitlines():
        match = re.match(r"(\w+)#(\d+)=(.*)", line.strip())
        if match:
            rows.setdefault(int(match[2]), {})[match[1]] = match[3].strip()
    return list(rows.values())


def is_cc0(archive: zipfile.ZipFile, folder: str) -> bool:
    """True if the package and, where it has one, the model's own licence file say Creative Commons Zero."""
    own = [
        name
        for name in archive.namelist()
        if name.startswith(folder + "/") and name.lower().endswith((".txt", ".html"))
    ]
    texts = [archive.read(name).decode("utf-8", errors="replace") for name in ("LICENSE.TXT", *own)]
    zero = re.compile(r"Creative\s+Commons\s+Zero|CC[- ]?0", re.IGNORECASE)
    return all(zero.search(text) and "CC-BY" not in text for text in texts)


def read_model(archive: zipfile.ZipFile, path: str) -> tuple[Soup, list[Material]]:
    """Triangles and materials of a Wavefront file; polygons become fans."""
    points: list[list[float]] = []
    textures: list[list[float]] = []
    corners, uvs, owners = [], [], []
    materials: dict[str, Material] = {}
    names, current = [""], 0
    for line in archive.read(path).decode("latin-1").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "v":
            points.append([float(x) for x in rest.split()[:3]])
        elif word == "vt":
            textures.append([float(x) for x in rest.split()[:2]])
        elif word == "mtllib":
            materials |= read_materials(archive, str(PurePosixPath(path).parent / rest.strip()))
        elif word == "usemtl":
            name = rest.strip()
            current = names.index(name) if name in names else len(names)
            names += [name] if current == len(names) else []
        elif word == "f":
            place, picture = _face(rest.split(), points, textures)
            for i in range(1, len(place) - 1):
                corners.append([place[0], place[i], place[i + 1]])
                uvs.append([picture[0], picture[i], picture[i + 1]])
                owners.append(current)
    plain = Material((0.7, 0.7, 0.7))
    soup = Soup(np.array(corners), np.array(uvs), np.array(owners))
    return soup, [materials.get(name, plain) for name in names]


def _face(
    tokens: list[str], points: list[list[float]], textures: list[list[float]]
) -> tuple[list[list[float]], list[list[float]]]:
    """Positions and texture coordinates of one polygon."""
    place, picture = [], []
    for token in tokens:
        index = [int(x) if x else 0 for x in token.split("/")]
        place.append(points[index[0] - 1 if index[0] > 0 else index[0]])
        uv = index[1] if len(index) > 1 else 0
        picture.append(textures[uv - 1 if uv > 0 else uv] if uv else [0.0, 0.0])
    return place, picture


def read_materials(archive: zipfile.ZipFile, path: str) -> dict[str, Material]:
    """The materials of a Wavefront library by name."""
    out: dict[str, Material] = {}
    name = ""
    for line in archive.read(path).decode("latin-1").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "newmtl":
            name = rest.strip()
            out[name] = Material((0.7, 0.7, 0.7))
        elif word == "Kd":
            red, green, blue = (float(x) for x in rest.split()[:3])
            out[name] = dataclasses.replace(out[name], colour=(red, green, blue))
        elif word == "d":
            out[name] = dataclasses.replace(out[name], opacity=float(rest.split()[-1]))
        elif word == "map_Kd":
            file = PurePosixPath(path).parent / re.split(r"[/\\\\]", rest.strip())[-1].split()[-1]
            if str(file) in archive.namelist():
                with Image.open(io.BytesIO(archive.read(str(file)))) as picture:
                    out[name] = dataclasses.replace(out[name], picture=np.asarray(picture.convert("RGB")))
    return out


# -- geometry -----------------------------------------------------------------------------------------------------


def to_catalogue_size(corners: np.ndarray, row: dict[str, str]) -> np.ndarray:
    """Corners [n, 3, 3] in metres: +Z up, the back at +y, standing on z = 0 with the footprint's middle at the origin.

    The catalogue has +Y up, the back at -z, and width, depth and height in centimetres.
    """
    if "modelRotation" in row:
        turn = np.array([float(x) for x in row["modelRotation"].split()]).reshape(3, 3)
        corners = corners @ turn.T
    turned = np.stack([corners[..., 0], -corners[..., 2], corners[..., 1]], axis=-1)
    low, high = turned.min((0, 1)), turned.max((0, 1))
    size = np.array([float(row[key]) for key in ("width", "depth", "height")]) / 100
    middle = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
    return (turned - middle) * size / np.maximum(high - low, 1e-9)


def decimate(soup: Soup, faces: int) -> Soup:
    """About `faces` triangles of the same shape, with materials and texture coordinates of the nearest original."""
    if len(soup.corners) <= faces:
        return soup
    o3d = import_open3d()
    welded, triangles = _weld(soup.corners)
    mesh = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(welded), o3d.utility.Vector3iVector(triangles.astype(np.int32))
    )
    fine, cell = mesh, 0.004
    mesh = fine.simplify_quadric_decimation(faces, boundary_weight=1.0)
    # Shapes of many small or tangled pieces stop short; merging vertices within a growing cell loosens them.
    while len(mesh.triangles) > 1.3 * faces and cell < 0.05:
        mesh = fine.simplify_vertex_clustering(cell).simplify_quadric_decimation(faces, boundary_weight=1.0)
        cell *= 1.5
    mesh.remove_degenerate_triangles()
    corners = _largest_pieces(np.asarray(mesh.vertices)[np.asarray(mesh.triangles)], round(1.4 * faces))
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(
        o3d.core.Tensor(soup.corners.reshape(-1, 3).astype(np.float32)),
        o3d.core.Tensor(np.arange(soup.corners.size // 3, dtype=np.uint32).reshape(-1, 3)),
    )
    found = scene.compute_closest_points(o3d.core.Tensor(corners.mean(1).astype(np.float32)))
    nearest = found["primitive_ids"].numpy().astype(int)
    return Soup(corners, _carried_uvs(soup, nearest, corners), soup.material[nearest])


def _weld(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [v, 3] that are the same within half a millimetre become one; triangles [n, 3] without area go."""
    keys = np.round(corners.reshape(-1, 3) / 0.0005).astype(np.int64)
    _, first, index = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    triangles = index.reshape(-1, 3)
    whole = (triangles != np.roll(triangles, 1, axis=1)).all(1)
    return corners.reshape(-1, 3)[first], triangles[whole]


def _largest_pieces(corners: np.ndarray, limit: int) -> np.ndarray:
    """The connected pieces with the largest area, as many as fit into `limit` triangles; at least the largest one."""
    if len(corners) <= limit:
        return corners
    vertices, index = np.unique(np.round(corners.reshape(-1, 3), 6), axis=0, return_inverse=True)
    a, b, c = index.reshape(-1, 3).T
    edges = (np.ones(2 * len(a)), (np.r_[a, a], np.r_[b, c]))
    _, label = connected_components(coo_array(edges, shape=(len(vertices),) * 2), directed=False)
    piece = label[a]
    count, total = np.bincount(piece), np.bincount(piece, areas(corners))
    kept: list[int] = []
    for candidate in np.argsort(-total):
        if not kept or count[[*kept, candidate]].sum() <= limit:
            kept.append(int(candidate))
    return corners[np.isin(piece, kept)]


def areas(corners: np.ndarray) -> np.ndarray:
    """Area of each triangle [n, 3, 3], square metres."""
    return np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2


def _carried_uvs(soup: Soup, nearest: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Texture coordinates [n, 3, 2] of new triangles: the affine map of their nearest original triangle, continued."""
    a, b, c = np.moveaxis(soup.corners[nearest], 1, 0)
    frame = np.stack([b - a, c - a], axis=-1)  # [n, 3, 2]
    weights = np.einsum("nij,nkj->nki", np.linalg.pinv(frame), corners - a[:, None])
    uv = soup.uvs[nearest]
    edges = np.stack([uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]], axis=1)  # [n, 2, 2]
    return uv[:, :1] + np.clip(weights, -8, 8) @ edges


def corner_normals(corners: np.ndarray, crease: float = 40.0) -> np.ndarray:
    """Normals [n, 3, 3]: those of the adjacent triangles within `crease` degrees, weighted by area."""
    face = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    unit = face / np.maximum(np.linalg.norm(face, axis=1, keepdims=True), 1e-12)
    _, vertex = np.unique(np.round(corners.reshape(-1, 3), 5), axis=0, return_inverse=True)
    vertex = vertex.ravel()
    order = np.argsort(vertex, kind="stable")
    starts = np.r_[np.flatnonzero(np.diff(vertex[order], prepend=-1)), len(order)]
    out = np.empty((len(vertex), 3))
    for low, high in itertools.pairwise(starts):
        at = order[low:high]
        near = unit[at // 3] @ unit[at // 3].T >= math.cos(math.radians(crease))
        out[at] = near @ face[at // 3]
    length = np.linalg.norm(out, axis=1, keepdims=True)
    out = np.where(length > 1e-12, out / np.maximum(length, 1e-12), [0.0, 0.0, 1.0])
    return out.reshape(-1, 3, 3)


# -- one texture a model ------------------------------------------------------------------------------------------


def bake_texture(soup: Soup, materials: list[Material]) -> tuple[np.ndarray, np.ndarray]:
    """One picture u8 [H, W, 3] that holds every material, and the texture coordinates [n, 3, 2] into it.

    Pictures that are repeated on a surface are repeated in the texture.
    """
    used = [i for i in np.unique(soup.material) if (soup.material == i).any()]
    pictured = [i for i in used if materials[i].picture is not None]
    plain = [i for i in used if materials[i].picture is None]
    per_row = CELL // SWATCH
    height = CELL * len(pictured) + SWATCH * math.ceil(len(plain) / per_row)
    texture = np.zeros((height, CELL, 3), np.uint8)
    uvs = np.zeros_like(soup.uvs)
    for row, i in enumerate(pictured):
        faces = soup.material == i
        cell, inside = _repeated(materials[i].picture, soup.uvs[faces])
        texture[row * CELL : (row + 1) * CELL] = cell
        inner = 0.5 + inside * (CELL - 1)
        uvs[faces] = np.stack(
            [inner[..., 0] / CELL, 1 - (row * CELL + CELL - inner[..., 1]) / height], axis=-1
        )
    for k, i in enumerate(plain):
        top, left = CELL * len(pictured) + SWATCH * (k // per_row), SWATCH * (k % per_row)
        colour = np.clip(np.array(materials[i].colour) * 255, 18, 236)
        texture[top : top + SWATCH, left : left + SWATCH] = colour.astype(np.uint8)
        uvs[soup.material == i] = ((left + SWATCH / 2) / CELL, 1 - (top + SWATCH / 2) / height)
    return texture, uvs


def _repeated(picture: np.ndarray, uvs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part of a repeated picture that triangles show, u8 [CELL, CELL, 3], and their places in it in [0, 1]."""
    shifted = uvs - np.floor(uvs.mean(1, keepdims=True))
    low, high = np.quantile(shifted, 0.01, axis=(0, 1)), np.quantile(shifted, 0.99, axis=(0, 1))
    span = np.clip(high - low, 1e-3, 3.0)
    at = (np.arange(CELL * 4) + 0.5) / (CELL * 4)
    columns = ((low[0] + at * span[0]) % 1.0 * picture.shape[1]).astype(int)
    rows = ((1 - (low[1] + (1 - at) * span[1]) % 1.0) * picture.shape[0]).astype(int) % picture.shape[0]
    fine = Image.fromarray(picture[np.ix_(rows, columns % picture.shape[1])])
    cell = np.asarray(fine.resize((CELL, CELL), Image.Resampling.BOX))
    return np.clip(cell, 10, 240), np.clip((shifted - low) / span, 0, 1)


# -- writing ------------------------------------------------------------------------------------------------------


def pack(soup: Soup, texture: np.ndarray, uvs: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays that are shipped: vertices and texture coordinates u16 in their range, normals i8, JPEG bytes.

    `box` f32 [2, 3] holds the lower and the upper corner that 0 and 65535 stand for.
    """
    low, high = soup.corners.min((0, 1)), soup.corners.max((0, 1))
    place = np.round((soup.corners - low) / np.maximum(high - low, 1e-9) * 65535)
    normals = np.round(corner_normals(soup.corners) * 127)
    rows = np.concatenate([place, normals, np.round(np.clip(uvs, 0, 1) * 65535)], axis=-1).reshape(-1, 8)
    unique, index = np.unique(rows.astype(np.int32), axis=0, return_inverse=True)
    buffer = io.BytesIO()
    Image.fromarray(texture).save(buffer, "JPEG", quality=82, subsampling=0, optimize=True)
    return {
        "box": np.stack([low, high]).astype(np.float32),
        "vertices": unique[:, :3].astype(np.uint16),
        "normals": unique[:, 3:6].astype(np.int8),
        "uvs": unique[:, 6:].astype(np.uint16),
        "triangles": index.reshape(-1, 3).astype(np.uint16),
        "texture": np.frombuffer(buffer.getvalue(), dtype=np.uint8),
    }


def draw_splits(groups: dict[str, list[str]]) -> dict[str, str]:
    """The split of each name: of every group of three and more 15 %, at least one, to dev and as many to test."""
    out: dict[str, str] = {}
    for names in groups.values():
        held = max(1, round(0.15 * len(names))) if len(names) >= 3 else 0
        order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        for i, name in enumerate(order):
            out[name] = "dev" if i < held else "test" if i < 2 * held else "train"
    return out


def face_budget(size: np.ndarray) -> int:
    """Triangles for a model of this size in metres: large ones fill more of a picture."""
    return int(np.clip(160 + 280 * np.max(size), 200, 700))


def convert_model(archive: zipfile.ZipFile, row: dict[str, str]) -> dict[str, np.ndarray] | None:
    """The shipped arrays of one catalogue row; None where decimation loses its shape."""
    soup, materials = read_model(archive, row["model"].lstrip("/"))
    soup = dataclasses.replace(soup, corners=to_catalogue_size(soup.corners, row))
    opaque = np.array([m.opacity >= OPAQUE for m in materials])[soup.material]
    soup = Soup(soup.corners[opaque], soup.uvs[opaque], soup.material[opaque])
    size = np.ptp(soup.corners, axis=(0, 1))
    # What loses its shape gets more triangles; leaves and blades lose most of their surface without harm.
    for times, share in ((1, 0.8), (2, 0.7), (3, 0.25)):
        coarse = decimate(soup, times * face_budget(size))
        whole = (np.ptp(coarse.corners, axis=(0, 1)) >= 0.85 * size - 0.01).all()
        if whole and areas(coarse.corners).sum() > share * areas(soup.corners).sum():
            if coarse is not soup:
                materials = [
                    _without_pattern(m, soup.uvs[soup.material == i]) for i, m in enumerate(materials)
                ]
            return pack(coarse, *bake_texture(coarse, materials))
    return None


def _without_pattern(material: Material, uvs: np.ndarray) -> Material:
    """The mean colour of a picture with strong contrast that is repeated: decimation tears such patterns."""
    picture = material.picture
    if picture is None or not len(uvs) or np.ptp(uvs, axis=(0, 1)).max() < 1.5 or picture.std() < 35:
        return material
    red, green, blue = (picture.mean((0, 1)) / 255).tolist()
    return dataclasses.replace(material, colour=(red, green, blue), picture=None)


def furniture(sh3f: Path, out: Path) -> None:
    """Convert the furniture of a Sweet Home 3D catalogue.

    Args:
        sh3f: the catalogue, a `.sh3f` file.
        out: folder that gets `furniture.safetensors`, `furniture.json` and `CREDITS-furniture.md`.
    """
    from safetensors.numpy import save_file

    role_of = {name: role for role, names in ROLES.items() for name in names.split()}
    tensors: dict[str, np.ndarray] = {}
    index: dict[str, dict[str, Any]] = {}
    with zipfile.ZipFile(sh3f) as archive:
        for row in read_catalogue(archive):
            folder = str(PurePosixPath(row["model"].lstrip("/")).parent)
            name = PurePosixPath(folder).name
            if name not in role_of or not is_cc0(archive, folder):
                continue
            arrays = convert_model(archive, row)
            if arrays is None:
                print(f"{name}: left out, its shape is lost with so few triangles")
                continue
            tensors |= {f"{name}.{key}": value for key, value in arrays.items()}
            size = [round(float(x), 4) for x in np.ptp(arrays["box"], axis=0)]
            index[name] = {
                "role": role_of[name],
                "title": row["name"],
                "author": row.get("creator", ""),
                "size": size,
                "elevation": round(float(row.get("elevation", 0)) / 100, 4),
                "faces": len(arrays["triangles"]),
            }
    groups: dict[str, list[str]] = {}
    for name, entry in index.items():
        groups.setdefault(entry["role"], []).append(name)
    for name, split in draw_splits(groups).items():
        index[name]["split"] = split
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "furniture.safetensors")
    (out / "furniture.json").write_text(json.dumps(index, indent=1) + "\n")
    (out / "CREDITS-furniture.md").write_text(_furniture_credits(index))
    print(f"{len(index)} models, {sum(e['faces'] for e in index.values())} triangles")


def _furniture_credits(index: dict[str, dict[str, Any]]) -> str:
    lines = [
        "# Furniture",
        "",
        "`furniture.safetensors` holds 3D models that their authors gave to everyone under Creative Commons Zero 1.0",
        "on Blend Swap (blendswap.com), as collected by Emmanuel Puybaret (eTeks) in Sweet Home 3D's catalogue",
        "`BlendSwap-CC-0` 1.8 (sweethome3d.com; Debian package `sweethome3d-furniture`). They are scaled to their",
        "catalogue size, decimated, and have one small texture each.",
        "",
        "| model | title | author | split |",
        "|---|---|---|---|",
    ]
    lines += [f"| {n} | {e['title']} | {e['author']} | {e['split']} |" for n, e in sorted(index.items())]
    return "\n".join(lines) + "\n"


# -- panoramas ----------------------------------------------------------------------------------------------------


def read_exr(source: bytes) -> np.ndarray:
    """Linear light f32 [H, W, 3] of an OpenEXR file.

    Raises:
        DependencyError: the package OpenEXR is not installed.
    """
    try:
        import OpenEXR
    except ModuleNotFoundError as cause:
        raise DependencyError("OpenEXR is not installed; run `pip install OpenEXR`.") from cause
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".exr") as file:
        file.write(source)
        file.flush()
        channels = OpenEXR.File(file.name).channels()
        if "RGB" in channels or "RGBA" in channels:
            pixels = channels["RGB" if "RGB" in channels else "RGBA"].pixels[..., :3]
        else:
            pixels = np.stack([channels[key].pixels for key in "RGB"], axis=-1)
        return np.array(pixels, dtype=np.float32)


def tone_map(light: np.ndarray) -> np.ndarray:
    """Linear light as sRGB u8 [H, W, 3]: the mean of the logarithm goes to middle grey, highlights roll off."""
    light = np.clip(np.nan_to_num(light, nan=1e4, posinf=1e4), 0, 1e4)
    luminance = light @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    exposed = light * 0.2 / np.exp(np.log(luminance + 1e-4).mean())
    brightness = exposed @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    white = max(2.0, float(np.quantile(brightness, 0.98)))
    gain = (1 + brightness / white**2) / (1 + brightness)
    linear = np.clip(exposed * gain[..., None], 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (encoded * 255 + 0.5).astype(np.uint8)


def panoramas(packed: Path, exr: Path, out: Path, width: int = 768) -> None:
    """Tone-map equirectangular pictures.

    Args:
        packed: folder of `NAME.exr.js` files, OpenEXR in base64.
        exr: folder of `NAME.exr` files.
        out: folder that gets `panoramas/NAME.jpg`, `panoramas.json` and `CREDITS-panoramas.md`.
        width: columns of the pictures; rows are half as many.
    """
    sources = {p.name[: -len(".exr.js")]: (p, "@pmndrs/assets") for p in sorted(packed.glob("*.exr.js"))}
    sources = {name: source for name, source in sources.items() if name not in SAME_PANORAMAS}
    for path in sorted(exr.glob("*.exr")):
        sources[path.stem + "-2" if path.stem in sources else path.stem] = (path, "blender-data")
    (out / "panoramas").mkdir(parents=True, exist_ok=True)
    index = {}
    for name, (path, package) in sources.items():
        data = path.read_bytes()
        if path.suffix == ".js":
            data = base64.b64decode(re.search(rb"base64,([A-Za-z0-9+/=]+)", data)[1])  # type: ignore[index]
        light = read_exr(data)
        if light.shape[0] == light.shape[1]:  # squeezed to a square
            light = light.repeat(2, axis=1)
        picture = Image.fromarray(tone_map(light)).resize((width, width // 2), Image.Resampling.LANCZOS)
        picture.save(out / "panoramas" / f"{name}.jpg", quality=85, optimize=True)
        split = next((split for split, names in PANORAMA_SPLITS.items() if name in names), "train")
        index[name] = {"split": split, "package": package}
    (out / "panoramas.json").write_text(json.dumps(index, indent=1) + "\n")
    (out / "CREDITS-panoramas.md").write_text(_panorama_credits(index))


def _panorama_credits(index: dict[str, dict[str, str]]) -> str:
    lines = [
        "# Panoramas",
        "",
        "`panoramas/` holds equirectangular photographs under Creative Commons Zero 1.0: high dynamic range pictures",
        "of Poly Haven (polyhaven.com, formerly HDRI Haven), as packed in `@pmndrs/assets` 1.7 on npm and, by Greg",
        "Zaal, in Blender 3.4 (Debian package `blender-data`). They are tone-mapped to 8 bits and resized.",
        "",
        "| picture | package | split |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {entry['package']} | {entry['split']} |" for name, entry in sorted(index.items())]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the converter named on the command line."""
    import tyro

    tyro.extras.subcommand_cli_from_dict({"furniture": furniture, "panoramas": panoramas})


if __name__ == "__main__":
    main()
