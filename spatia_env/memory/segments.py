"""Growing a segment of a point cloud from one of its points.

Large planes (floors, walls, table tops) are set aside first, unless the point lies on one: what stands on a floor is
then no longer joined to it. Of the rest, neighbours belong together when their colours differ little and the
surface between them is not a concave crease, as things are convex and meet one another in creases.
"""

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

MAX_NEIGHBOURS = 12
CREASE = 0.3
"""Sine of the angle (about 17 degrees) by which two points must see each other above their own surface."""
PLANE_AREA = 0.8
"""m^2 from which a plane is large: more than the sides of most things, less than the floor around them."""
PLANE_DEPTH = (0.04, 0.15)
"""Metres from a plane within which points belong to it: the least, and the most, on noisy surfaces."""
MAX_PLANES = 6
_CELL = 0.05  # metres: areas are counted in squares of this edge
_ALONG = 0.8  # cosine between a point's normal and its plane's


def grow(
    position: np.ndarray,
    colour: np.ndarray,
    seed: int,
    eye: np.ndarray,
    reach: float,
    colour_tolerance: float,
) -> np.ndarray:
    """Which points [n] are connected to point `seed`: bool [n].

    Args:
        position: [n, 3] metres.
        colour: u8 [n, 3].
        seed: Index of the point to grow from.
        eye: Where it is looked at from [3]; normals are turned to it.
        reach: Metres between points that touch.
        colour_tolerance: Largest difference of colour between neighbours, root mean square, in [0, 1].
    """
    position = position.astype(np.float64)
    if len(position) == 1:
        return np.ones(1, bool)
    distance, index = cKDTree(position).query(
        position, k=min(MAX_NEIGHBOURS + 1, len(position)), distance_upper_bound=reach
    )
    near = np.isfinite(distance) & (distance > 0)
    normal = _normals(position, np.where(near, index, 0), near, eye)
    free = ~_other_planes(position, _coarse_normals(position), seed)
    first, column = near.nonzero()
    second, apart = index[first, column], distance[first, column]
    difference = colour[first].astype(np.float64) - colour[second]
    alike = np.sqrt((difference**2).mean(-1)) <= 255 * colour_tolerance
    direction = (position[second] - position[first]) / apart[:, None]
    above = (normal[first] * direction).sum(-1) > CREASE
    below = -(normal[second] * direction).sum(-1) > CREASE
    joined = alike & ~(above & below) & free[first] & free[second]
    edges = (np.ones(joined.sum()), (first[joined], second[joined]))
    label = connected_components(coo_matrix(edges, shape=(len(position),) * 2), directed=False)[1]
    return label == label[seed]


def _normals(position: np.ndarray, index: np.ndarray, near: np.ndarray, eye: np.ndarray) -> np.ndarray:
    """Unit normals [n, 3] by the spread of each point's neighbours [n, k], turned towards `eye`."""
    offset = np.where(near[..., None], position[index] - position[:, None], 0)
    offset = offset - offset.sum(1, keepdims=True) / (near.sum(1)[:, None, None] + 1)
    offset *= (near | (np.arange(near.shape[1]) == 0))[..., None]  # the first neighbour is the point itself
    normal = np.linalg.eigh(np.einsum("nki,nkj->nij", offset, offset))[1][:, :, 0]
    facing = ((eye - position) * normal).sum(-1)
    return np.where(facing[:, None] < 0, -normal, normal)


def _coarse_normals(position: np.ndarray) -> np.ndarray:
    """Unit normals [n, 3], up to their sign, of the points in the 27 cells around each point's."""
    cells, member = np.unique(np.floor(position / _CELL).astype(np.int64), axis=0, return_inverse=True)
    member = member.reshape(-1)
    local = position - position.mean(0)  # small numbers keep the differences below exact
    moments = np.concatenate([np.ones((len(local), 1)), local, _outer(local).reshape(-1, 9)], axis=1)
    sums = np.stack([np.bincount(member, column, len(cells)) for column in moments.T], axis=1)
    tree = cKDTree(cells)
    pairs = tree.query_pairs(1.01, p=np.inf, output_type="ndarray")
    rows = np.concatenate([pairs[:, 0], pairs[:, 1], np.arange(len(cells))])
    columns = np.concatenate([pairs[:, 1], pairs[:, 0], np.arange(len(cells))])
    total = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(cells),) * 2).tocsr() @ sums
    mean = total[:, 1:4] / total[:, :1]
    spread = total[:, 4:].reshape(-1, 3, 3) / total[:, :1, None] - _outer(mean)
    return np.linalg.eigh(spread)[1][:, :, 0][member]


def _outer(vectors: np.ndarray) -> np.ndarray:
    return vectors[:, :, None] * vectors[:, None, :]


def _other_planes(position: np.ndarray, normal: np.ndarray, seed: int) -> np.ndarray:
    """Points bool [n] of large planes on which `seed` does not lie."""
    left, other = np.ones(len(position), bool), np.zeros(len(position), bool)
    for _ in range(MAX_PLANES):
        plane = _largest_plane(position, normal, left)
        if plane is None:
            break
        left &= ~plane
        if not plane[seed]:
            other |= plane
    return other


def _largest_plane(position: np.ndarray, normal: np.ndarray, among: np.ndarray) -> np.ndarray | None:
    """Points bool [n] of a plane that many of the points `among` vote for; None if it is not large."""
    if not among.any():
        return None
    direction = _commonest_direction(normal[among])
    along = np.abs(normal @ direction) > _ALONG
    offset = position @ direction
    candidates = offset[among & along]
    if not len(candidates):
        return None
    values, counts = np.unique(np.round(candidates / PLANE_DEPTH[0]), return_counts=True)
    at = values[counts.argmax()] * PLANE_DEPTH[0]
    near = candidates[np.abs(candidates - at) <= PLANE_DEPTH[1]]
    at = np.median(near)
    depth = np.clip(4 * np.median(np.abs(near - at)), *PLANE_DEPTH)
    plane = among & along & (np.abs(offset - at) <= depth)
    across = np.linalg.svd(direction[None])[2][1:]  # two axes of the plane
    cells = np.unique(np.floor(position[plane] @ across.T / _CELL), axis=0)
    return plane if len(cells) * _CELL**2 >= PLANE_AREA else None


def _commonest_direction(normal: np.ndarray) -> np.ndarray:
    """The unit vector [3], up to its sign, that the most normals are near to."""
    strongest = np.abs(normal).argmax(-1)[:, None]
    folded = normal * np.sign(np.take_along_axis(normal, strongest, -1))
    _, member, counts = np.unique(np.round(folded * 4), axis=0, return_inverse=True, return_counts=True)
    mean = folded[member.reshape(-1) == counts.argmax()].mean(0)
    return mean / np.linalg.norm(mean)
