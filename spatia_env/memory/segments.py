"""Growing a segment of a point cloud from one of its points.

Neighbours belong together when their colours differ little and the surface between them is not a concave
crease. Things are convex where they end and meet what they stand on in a concave crease, so a box is taken
with all its sides and the floor is not.
"""

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

MAX_NEIGHBOURS = 12
CREASE = 0.3
"""Sine of the angle (about 17 degrees) by which two points must see each other above their own surface."""


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
    first, column = near.nonzero()
    second, apart = index[first, column], distance[first, column]
    difference = colour[first].astype(np.float64) - colour[second]
    alike = np.sqrt((difference**2).mean(-1)) <= 255 * colour_tolerance
    direction = (position[second] - position[first]) / apart[:, None]
    above = (normal[first] * direction).sum(-1) > CREASE
    below = -(normal[second] * direction).sum(-1) > CREASE
    joined = alike & ~(above & below)
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
