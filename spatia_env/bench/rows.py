"""The systems under test: a row is one switch away from `default`. How each plays is in `players`."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Row:
    """A row of the tables.

    Attributes:
        name: As printed.
        summary: What it is, one line.
        env: Options of the environment, None for a row without one.
        depth: Whether the start picture comes with its depth.
        show_render: Whether the model sees the map's render.
        filter: Whether what moves is kept out of the map.
        continues: Whether the model is told how surfaces go on beyond the render.
        voxel: Metres between points of the map.
        needs: A module that the row cannot do without, "" for none.
    """

    name: str
    summary: str
    env: Mapping[str, Any] | None = None
    depth: bool = True
    show_render: bool = True
    filter: bool = True
    continues: bool = True
    voxel: float = 0.01
    needs: str = ""

    def describe(self) -> dict[str, Any]:
        """Plain values, for the fingerprint and the results file."""
        return {
            "name": self.name, "summary": self.summary, "env": None if self.env is None else dict(self.env),
            "depth": self.depth, "show_render": self.show_render, "filter": self.filter,
            "continues": self.continues, "voxel": self.voxel,
        }  # fmt: skip


def _env(**options: Any) -> Mapping[str, Any]:
    return MappingProxyType(options)


SWEEPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "voxel": ("default", "voxel-3cm", "voxel-5cm", "voxel-7cm"),
        "references": ("no-references", "references-1", "references-3", "references-5", "references-7"),
    }
)
"""Rows along one axis of the paper's tables; the default's voxel is 1 cm."""

ROWS: Mapping[str, Row] = MappingProxyType(
    {
        row.name: row
        for row in (
            Row("oracle", "the simulator's own frames and depth, scored by the same code: the ceiling"),
            Row("default", "the packaged checkpoint, started from a picture with its depth", _env()),
            Row("default-picture-only", "the same, started from the picture alone", _env(), depth=False),
            Row("no-memory", "nothing is remembered but the preceding frames", _env(memory="none")),
            Row("no-references", "no pictures are retrieved", _env(references=0)),
            Row("no-scene-render", "the model does not see the map's render", _env(), show_render=False),
            Row(
                "no-continuation",
                "the model is not told how surfaces go on beyond the render",
                _env(),
                continues=False,
            ),
            Row("no-slam", "poses are taken as commanded", _env(slam="off")),
            Row("no-dynamic-filter", "what moves is written into the map as well", _env(), filter=False),
            Row(
                "memory-render-only",
                "the start picture's points rendered along the path, holes left, no model",
            ),
            Row(
                "memory-filled",
                "the same, its holes filled with the nearest known colour and depth, no model",
            ),
            Row("memory+inpaint", "the same, its holes filled by OpenCV's inpainting, no model", needs="cv2"),
            Row(
                "memory+surfaces", "the same, its planes and their patterns going on into its holes, no model"
            ),
            Row("frozen-frame", "the start picture and its depth, for ever: the floor"),
            *(
                Row(f"voxel-{cm}cm", f"points of the map {cm} cm apart", _env(), voxel=cm / 100)
                for cm in (3, 5, 7)
            ),
            *(
                Row(f"references-{n}", f"at most {n} pictures are retrieved", _env(references=n))
                for n in (1, 3, 5, 7)
            ),
        )
    }
)
