"""Imports point down only, and every module is small."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import rbdfs

PACKAGE = Path(rbdfs.__file__).parent

# From the top. A module imports from the rooms below its own, and within its own without circles;
# for types alone, the same. Rooms on one line know nothing of each other.
ROOMS = [
    "__main__",
    "cli",
    "commands",
    "server",
    "fuse",
    "moves",
    "files",
    "names",
    "metadata",
    "metrics",
    "ceph keeper",
    "kernel",
    "datapath",
    "config",
    "model",
    "errors",
    "__init__",
]
DEPTH = {name: depth for depth, names in enumerate(ROOMS) for name in names.split()}

# Who may import what from outside; errors.py and __init__.py know nothing of any of them.
MAY_KNOW = {
    "rados": {"ceph", "metadata"},
    "rbd": {"ceph", "metadata"},
    "pyfuse3": {"fuse", "server"},
}
# A model is a value: it waits for nothing and asks nobody.
IMPURE = {"trio", "rados", "rbd", "pyfuse3", "subprocess", "socket", "threading"}
# The keeper outlives servers because there is so little that can fail in it.
KEEPER_KNOWS = {"keeper", "kernel", "config", "model", "errors"}
# A command is run by who needs no Ceph, while a mount lives.
COMMANDS_KNOW = {"commands", "metrics", *KEEPER_KNOWS}
# Meters are read while servers hang.
METRICS_KNOW = {"metrics", "model"}

MODULES = sorted(PACKAGE.rglob("*.py"))
every_module = pytest.mark.parametrize(
    "path", MODULES, ids=[str(path.relative_to(PACKAGE)) for path in MODULES]
)


def room(path: Path) -> str:
    """The room of a module; one that is in none is named as itself."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, *, types: bool = True) -> set[str]:
    """Dotted names of what a module imports; without *types*, not what it only names in types."""
    tree = ast.parse(path.read_text())
    if not types:
        tree = WithoutTypes().visit(tree)
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


class WithoutTypes(ast.NodeTransformer):
    def visit_If(self, node: ast.If) -> ast.AST:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)


def own_imports(path: Path, *, types: bool = True) -> set[str]:
    """The dotted names below the package, without its own, that a module imports."""
    names = imports(path, types=types)
    return {name.removeprefix("rbdfs.") for name in names if name.split(".")[0] == "rbdfs"}


def other_rooms(path: Path, *, types: bool = True) -> set[str]:
    """The other rooms that a module imports from."""
    found = {name.split(".")[0] for name in own_imports(path, types=types)}
    # What is no room is a name in the package itself.
    return {name if name in DEPTH else "__init__" for name in found} - {room(path)}


def packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def test_the_package_was_found() -> None:
    assert {"cli.py", "image.py", "file_name.py"} <= {path.name for path in MODULES}
    assert other_rooms(PACKAGE / "ceph" / "errors.py") == {"errors"}
    assert "model" in other_rooms(PACKAGE / "files" / "handle.py"), "imported for its types alone"
    assert {room(path) for path in MODULES} == DEPTH.keys()


@every_module
def test_imports_point_down(path: Path) -> None:
    depth = DEPTH[room(path)]
    up = {other for other in other_rooms(path) if DEPTH[other] <= depth}
    assert up == set()


@every_module
def test_threads_are_of_a_kind(path: Path) -> None:
    """Trio's own limiter is one for all: whoever waits in it holds up everybody else."""
    bare = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith("to_thread.run_sync")
        and not any(keyword.arg == "limiter" for keyword in node.keywords)
    ]
    assert bare == []


def test_no_circles_within_a_room() -> None:
    modules = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in MODULES}
    edges: dict[str, set[str]] = {}
    for name, path in modules.items():
        # What is no module is a name in one.
        found = {
            other if other in modules else other.rpartition(".")[0]
            for other in own_imports(path, types=False)
        }
        edges[name] = (found & modules.keys()) - {name}
    while leaves := {name for name, others in edges.items() if not others & edges.keys()}:
        edges = {name: others for name, others in edges.items() if name not in leaves}
    assert edges.keys() == set()


def test_no_circles_in_c() -> None:
    """A header includes, and a source calls through, only what does not come back to it."""
    source = PACKAGE / "datapath" / "src"
    units: dict[str, set[str]] = {}
    for path in [*source.glob("*.c"), *source.glob("*.h")]:
        included = re.findall(r'#include "(\w+)\.h"', path.read_text())
        units.setdefault(path.stem, set()).update(set(included) - {path.stem})
    assert "mux" in units
    while leaves := {name for name, others in units.items() if not others & units.keys()}:
        units = {name: others for name, others in units.items() if name not in leaves}
    assert units.keys() == set()


@every_module
def test_who_may_know_what(path: Path) -> None:
    name, known = room(path), packages(path)
    for package, rooms in MAY_KNOW.items():
        assert package not in known or name in rooms, f"{package} in {name}/"
    if name == "model":
        assert not known & IMPURE
    if name == "keeper":
        assert other_rooms(path) | {name} <= KEEPER_KNOWS
    if name == "metrics":
        assert other_rooms(path) | {name} <= METRICS_KNOW
    if name == "commands":
        assert other_rooms(path) | {name} <= COMMANDS_KNOW


@pytest.mark.parametrize("name", [name for name in DEPTH if (PACKAGE / name).is_dir()])
def test_every_room_says_what_it_owns(name: str) -> None:
    docstring = ast.get_docstring(ast.parse((PACKAGE / name / "__init__.py").read_text()))
    assert docstring is not None
    assert "must not know" in " ".join(docstring.split())


@every_module
def test_fuse_errors_are_raised_by_the_operations_alone(path: Path) -> None:
    raised = {
        ast.unparse(node.exc).split("(")[0].split(".")[-1]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise) and node.exc is not None
    }
    assert "FUSEError" not in raised or path.name == "operations.py"


@every_module
def test_size(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= 50
    }
    assert long == {}
