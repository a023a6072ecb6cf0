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
PLANE_DEPTH = 0.04
"""Metres from a plane within which points with its normal belong to it."""
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
    free = ~_other_planes(position, normal, seed)
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
    votes = np.round(offset[among & along] / PLANE_DEPTH).astype(np.int64)
    if not len(votes):
        return None
    values, counts = np.unique(votes, return_counts=True)
    at = np.median(offset[among & along][votes == values[counts.argmax()]])
    plane = among & along & (np.abs(offset - at) <= PLANE_DEPTH)
    across = np.linalg.svd(direction[None])[2][1:]  # two axes of the plane
    cells = np.unique(np.floor(position[plane] @ across.T / _CELL), axis=0)
    return plane if len(cells) * _CELL**2 >= PLANE_AREA else None


def _commonest_direction(normal: np.ndarray) -> np.ndarray:
    """The unit vector [3], up to its sign, that the most normals are near to."""
    strongest = np.abs(normal).argmax(-1)[:, None]
    folded = normal * np.sign(np.take_along_axis(normal, strongest, -1))
    bins, member, counts = np.unique(np.round(folded * 4), axis=0, return_inverse=True, return_counts=True)
    mean = folded[member.reshape(-1) == counts.argmax()].mean(0)
    return mean / np.linalg.norm(mean)
