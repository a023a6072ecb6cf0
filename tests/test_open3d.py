import subprocess
import sys

import pytest

from spatia_env.errors import DependencyError
from spatia_env.io import mesh as _open3d


def test_open3d_loads_without_a_system_libusb():
    code = (
        "from spatia_env.io.mesh import import_open3d as load; "
        "print(load().geometry.PointCloud().is_empty(), load() is load())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.stdout.split() == ["True", "True"], result.stderr


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(DependencyError, match="pip install open3d") as caught:
        _open3d.import_open3d()
    assert isinstance(caught.value, ImportError)


def test_missing_system_library_says_what_to_install(monkeypatch, tmp_path):
    (tmp_path / "open3d.py").write_text(
        "raise ImportError('libusb-1.0.so.0: cannot open shared object file')"
    )
    monkeypatch.delitem(sys.modules, "open3d", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DependencyError, match=r"libusb-1\.0-0"):
        _open3d.import_open3d()
