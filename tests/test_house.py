"""What `make house` counts, on a small package written for it."""

import pytest

from docs.tools.house import circles, import_graph, modules, rooms, run_twice, single_importers

SOURCES = {
    "__init__.py": "",
    "loose.py": "from toy.a import one\n",
    "a/__init__.py": "",
    "a/one.py": "import os\nfrom . import two\n",
    "a/two.py": "def late():\n    from toy.b.three import thing\n",
    "b/__init__.py": "",
    "b/three.py": "import toy.a.one\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import toy.loose\n",
}


@pytest.fixture
def files(tmp_path):
    for name, source in SOURCES.items():
        path = tmp_path / "toy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return modules(tmp_path / "toy")


def test_imports_of_every_spelling_are_found(files):
    graph = import_graph(files)
    assert graph["toy.loose"] == {"toy.a.one"}
    assert graph["toy.a.one"] == {"toy.a.two"}
    assert graph["toy.a.two"] == {"toy.b.three"}
    assert graph["toy.b.three"] == {"toy.a.one", "toy.loose"}
    assert import_graph(files, inside_functions=False)["toy.a.two"] == set()


def test_modules_with_one_importer(files):
    assert single_importers(import_graph(files)) == ["toy.a.two", "toy.b.three", "toy.loose"]


def test_circles_of_files_and_rooms(files):
    whole, first = import_graph(files), import_graph(files, inside_functions=False)
    assert circles(first) == [] and circles(rooms(first)) == []
    assert circles(whole) == [{"toy.a.one", "toy.a.two", "toy.b.three", "toy.loose"}]
    assert circles(rooms(whole)) == [{"a", "b", "loose"}]


def test_a_run_gives_its_output_and_seconds():
    output, seconds = run_twice("sum(range(10**6)); print('done')")
    assert output == "done" and 0 < seconds < 60
