"""Import Open3D where it is used, on machines without its system libraries too.

Open3D 0.20 is linked against `libusb-1.0.so.0`, which a bare Debian does not have. The package
`libusb-package` ships that library; once it is loaded into the process, Open3D finds it there and nothing has
to be installed.
"""

import ctypes
import sys
from types import ModuleType

from spatia_env.errors import DependencyError


def import_open3d() -> ModuleType:
    """The module `open3d`.

    Raises:
        DependencyError: If it is missing, or a system library it needs is.
    """
    if "open3d" not in sys.modules:
        _preload_libusb()
    try:
        import open3d
    except ModuleNotFoundError as cause:
        raise DependencyError(f"open3d is not installed ({cause}); run `pip install open3d`.") from cause
    except (ImportError, OSError) as cause:
        raise DependencyError(
            f"open3d is installed but cannot be loaded ({cause}). On Debian and Ubuntu run `apt-get install "
            "libusb-1.0-0 libegl1 libgl1 libx11-6 libudev1 libidn2-0`."
        ) from cause
    return open3d


def _preload_libusb() -> None:
    """Load the packaged libusb so that its symbols are visible; the system's own serves where this fails."""
    if not sys.platform.startswith("linux"):
        return
    try:
        import libusb_package
    except ModuleNotFoundError:
        return
    path = libusb_package.get_library_path()
    if path is None:
        return
    try:
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return  # made for another system; what Open3D itself says of it is the better message
