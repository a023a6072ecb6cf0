"""The map in tiles as the playground sends it: everything once, near tiles first, within a budget."""

import numpy as np

from spatia_env.io.point_cloud import PointCloud
from spatia_env.memory import blocks as blk
from spatia_env.memory.editing import start_from
from spatia_env.memory.point_map import SceneMemory
from spatia_env.viewer import clouds


def memory_of(count: int, extent: float = 5.0, seed: int = 0) -> SceneMemory:
    rng = np.random.default_rng(seed)
    position = rng.uniform(-extent, extent, (count, 3)).astype(np.float32)
    colour = rng.integers(0, 256, (count, 3)).astype(np.uint8)
    cloud = PointCloud(position, colour, np.ones(count, np.float32), np.full(count, 0.01, np.float32))
    return start_from(SceneMemory(), cloud)


NOWHERE = np.zeros((0, 3))


def sent(tiles: clouds.TiledMap, eyes=NOWHERE, look=None) -> list:
    drawn = []
    for tile, fine in tiles.due(eyes, look):
        drawn.append((tile, fine, tiles.draw(tile, fine, "colour", 1, look)))
    return drawn


def test_every_point_is_sent_once_and_finely_in_the_end():
    memory = memory_of(3000)
    tiles = clouds.TiledMap()
    tiles.show(memory)
    drawn = sent(tiles)
    final = {tile: drawing for tile, fine, drawing in drawn if fine}
    points = np.concatenate([d.position + d.centre for d in final.values()])
    expected = memory.points()["position"]
    assert len(points) == len(expected)
    np.testing.assert_allclose(np.sort(points.ravel()), np.sort(expected.ravel()), atol=1e-5)
    assert [fine for _, fine, _ in drawn] == sorted(fine for _, fine, _ in drawn)  # coarse ones first
    assert sent(tiles) == []


def test_an_update_sends_the_tiles_it_touched_and_no_others():
    memory = memory_of(3000)
    tiles = clouds.TiledMap()
    tiles.show(memory)
    sent(tiles)
    key = next(iter(memory.blocks))
    block = memory.blocks[key].copy()
    block["colour"] = 0
    changed = memory.with_blocks({key: blk.freeze(block)})
    tiles.show(changed)
    corner = tuple((blk.unpack_blocks(np.array([key]))[0] // clouds.BLOCKS_PER_TILE).tolist())
    assert [(tile, fine) for tile, fine, _ in sent(tiles)] == [(corner, True)]
    gone = {
        k: blk.EMPTY
        for k in changed.blocks
        if tuple((blk.unpack_blocks(np.array([k]))[0] // clouds.BLOCKS_PER_TILE).tolist()) == corner
    }
    tiles.show(changed.with_blocks(gone))
    assert tiles.gone() == [corner] and tiles.gone() == [] and sent(tiles) == []


def test_far_tiles_stay_coarse_within_the_budget_and_follow_the_eye():
    memory = memory_of(8000, extent=8.0)
    tiles = clouds.TiledMap(budget=3000)
    tiles.show(memory)
    eye = np.array([[7.0, 7.0, 7.0]])
    counts = {tile: len(d.position) for tile, _, d in sent(tiles, eye)}
    assert sum(counts.values()) <= 3000
    fine = tiles.wanted(eye)
    assert 0 < len(fine) < len(counts)
    farthest_fine = max(np.linalg.norm(tiles.centre(t) - eye[0]) for t in fine)
    assert all(np.linalg.norm(tiles.centre(t) - eye[0]) >= farthest_fine - 1e-9 for t in set(counts) - fine)
    moved = sent(tiles, -eye)
    assert any(is_fine for _, is_fine, _ in moved) and any(not is_fine for _, is_fine, _ in moved)


def test_another_colouring_means_all_again_and_shows_its_measure():
    memory = memory_of(500)
    tiles = clouds.TiledMap()
    tiles.show(memory)
    sent(tiles, look="colour")
    assert {tile for tile, fine, _ in sent(tiles, look="age") if fine} == set(tiles.wanted(NOWHERE))
    rows = memory.points().copy()
    rows["first_step"] = np.arange(len(rows)) % 4
    new = clouds.colours(rows, "age", 3)
    assert (new[rows["first_step"] == 3] == new[rows["first_step"] == 3][0]).all()
    assert (new[rows["first_step"] == 0][0] != new[rows["first_step"] == 3][0]).any()
    rows["layer"][:5] = 1
    edited = clouds.colours(rows, "static / dynamic", 3)
    assert (edited[:5, 0] > edited[:5, 1]).all() and (edited[5:, 2] >= edited[5:, 0]).all()
