"""What tests of the playground share."""

import numpy as np

from spatia_env.viewer.timeline import Clip

HOSTILE = (
    "<script>window.__pwned=1</script>",
    '"><img src=x onerror="window.__pwned=1">',
    "${alert(1)}",
    "[a](javascript:1)",
)


def clip_of(frames: int = 3, height: int = 6, width: int = 8, value: int = 50) -> Clip:
    pose = np.broadcast_to(np.eye(4, dtype=np.float32), (frames, 4, 4)).copy()
    picture = np.full((frames, height, width, 3), value, np.uint8)
    return Clip(
        picture, np.ones((frames, height, width), np.float16), pose, np.ones((frames, height, width), bool),
        picture, picture[:2], (0.5, 0.25), np.zeros((frames, height, width), bool),
    )  # fmt: skip
