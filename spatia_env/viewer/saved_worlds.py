"""Saved worlds by name: the only way from what a browser sends to a file.

A name is an id of small letters, digits, `-` and `_`; the folder is the server's. Clients never send paths.
"""

import re
from pathlib import Path

from spatia_env.errors import ViewerError

ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_RESERVED = re.compile(r"con|prn|aux|nul|com\d|lpt\d")


class Library:
    """The worlds in one folder.

    Args:
        folder: Where they are; it is made when the first is saved.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, name: str) -> Path:
        """The file of a world with this id, whether it exists or not.

        Raises:
            ViewerError: If it is not an id.
        """
        if not (isinstance(name, str) and ID.fullmatch(name)) or _RESERVED.fullmatch(name):
            raise ViewerError(
                "name: use up to 64 small letters, digits, '-' and '_', and begin with a letter or digit."
            )
        return self.folder / f"{name}.spatia"

    def existing(self, name: str) -> Path:
        """The file of a saved world.

        Raises:
            ViewerError: If it is not an id, or there is no such world.
        """
        path = self.path(name)
        if not path.is_file() or path.is_symlink():
            raise ViewerError(f"there is no saved world {name!r}.")
        return path

    def names(self) -> list[str]:
        """The ids of the saved worlds, in order."""
        found = (path for path in self.folder.glob("*.spatia") if path.is_file() and not path.is_symlink())
        return sorted(path.stem for path in found if ID.fullmatch(path.stem))
