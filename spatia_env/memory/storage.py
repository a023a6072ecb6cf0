"""Worlds in files: the one place to import from. See `bundle`, `ply`, `colmap` and `docs/memory.md`."""

from spatia_env.memory.bundle import SaveReport, load_bundle, save_bundle, saves
from spatia_env.memory.manifest import BundleState

__all__ = ["BundleState", "SaveReport", "load_bundle", "save_bundle", "saves"]
