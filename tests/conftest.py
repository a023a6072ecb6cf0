"""Fixtures that several test files share."""

import os
import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def ram_path(tmp_path):
    """A folder in memory where there is one: these tests sync files hundreds of times."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)
