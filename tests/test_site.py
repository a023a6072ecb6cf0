"""The documentation as a site: it builds strictly, and its pages fetch nothing from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason='the site needs mkdocs: pip install "spatia-env[dev]"')
ROOT = Path(__file__).parent.parent


def test_the_site_builds_and_fetches_nothing(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    pages = sorted(tmp_path.rglob("*.html"))
    assert {"index.html", "playground", "gallery"} <= {path.name for path in tmp_path.iterdir()}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"""<(?:script|img|iframe|source)[^>]*\ssrc=["'](?:https?:)?//""", text), page
        assert not re.search(r"""<link[^>]*rel=["']stylesheet["'][^>]*href=["'](?:https?:)?//""", text), page
