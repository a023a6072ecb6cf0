"""Worlds in files: the one place to import from. `docs/memory.md` describes the formats."""

from spatia_env.io.colmap import ColmapImage, ColmapModel, read_colmap, write_colmap
from spatia_env.io.ply import read_ply, write_ply
from spatia_env.io.point_cloud import PointCloud
from spatia_env.memory.export import export, read_points
from spatia_env.memory.manifest import BundleState
from spatia_env.memory.storage import SaveReport, load_bundle, save_bundle, saves

__all__ = [
    "BundleState",
    "ColmapImage",
    "ColmapModel",
    "PointCloud",
    "SaveReport",
    "export",
    "load_bundle",
    "read_colmap",
    "read_ply",
    "read_points",
    "save_bundle",
    "saves",
    "write_colmap",
    "write_ply",
]
