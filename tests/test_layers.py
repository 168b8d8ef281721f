"""Imports point down only, and every module is small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import rbdfs

PACKAGE = Path(rbdfs.__file__).parent

# From the top. A module imports what stands below its own line, and nothing beside it; for types
# alone, beside it too.
LAYERS = [
    ("cli server", "the processes: what each is started for, and how it says how it went"),
    ("mount", "the life of one mount: puts together all that follows, and takes it apart"),
    ("serving native_path", "running a mount: signals and commands, and the native way to it"),
    ("operations", "the error boundary, around the answers to the kernel"),
    ("name_operations file_operations recovery", "the answers; and what comes before the first"),
    ("served", "all that the answers need of one mount"),
    ("open_directories inherited_inodes", "directories that are read; inodes that are looked for"),
    ("moving", "images on their way to other pools, with what is open on them"),
    ("completion", "the second half of a move"),
    ("copier", "the client that copies for a move"),
    ("administration xattrs copying freshness keeping", "what is done with entries and files"),
    ("catalog tree handles data_path switching", "which entries there are, are known and are open"),
    ("handle partition_tables resumption", "one open file; one partition table; one open again"),
    ("shared_image", "an image that several open files use together"),
    ("migration_recovery", "what an interrupted migration is brought to"),
    ("migration", "one image on its way to another pool"),
    ("opening lineage", "an image is opened for who shares it; where its data is"),
    ("library inventory keeper image_meta", "who opens, who lists, who holds the kernel"),
    ("cluster native_library growth arguments", "one client, one growing image, one command line"),
    ("trash", "what a migration has left there"),
    ("listing inspection object_map changes kinds migration_header", "one question each"),
    ("attributes logs mountpoint reports", "one concern each: of the options, of the operator"),
    ("image header directory daemon commands", "one image, one object, one process, one request"),
    ("single_flight aio ceph_errors datapath succession", "how Ceph and the kernel are called"),
    ("gate use", "requests are held back; what they are for"),
    ("relocation", "where an entry has gone"),
    ("options", "what one mount was asked for"),
    ("source entries", "values made of other values"),
    (
        "encoding spec qemu_filename extents partitions mountinfo ceph_settings",
        "pure: each stands alone",
    ),
    ("errors refusal secrecy", "the end of the line: for the user, for the kernel, for a key"),
    ("__init__", "the version"),
]
DEPTH = {name: depth for depth, (names, _) in enumerate(LAYERS) for name in names.split()}

# Those that put questions to Ceph and make changes there.
STORAGE = {"ceph_errors", "image", "header", "directory", "inspection", "object_map", "changes"}
STORAGE |= {"image_meta", "cluster", "library", "administration", "xattrs"}
STORAGE |= {"migration", "migration_header", "migration_recovery", "trash"}
KERNEL = {"mount", "serving", "native_path", "operations", "name_operations", "file_operations"}
KERNEL |= {"served", "attributes"}
PURE = {"encoding", "spec", "qemu_filename", "extents", "partitions", "mountinfo", "errors"}
PURE |= {"entries", "options", "source", "tree", "ceph_settings", "relocation"}

MODULES = sorted(PACKAGE.rglob("*.py"))
every_module = pytest.mark.parametrize(
    "path", MODULES, ids=[str(path.relative_to(PACKAGE)) for path in MODULES]
)


def layer_name(path: Path) -> str:
    """A sub-package counts as one module."""
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
    """The other modules of the package that one of them imports."""
    own = {name for name in imports(path, types=types) if name.split(".")[0] == "rbdfs"}
    known = DEPTH.keys() | {layer_name(module) for module in MODULES}
    names = {(name.split(".") + ["__init__"])[1] for name in own}
    # What is no module is a name in the package itself.
    return {name if name in known else "__init__" for name in names} - {layer_name(path)}


def packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def test_the_package_was_found() -> None:
    assert {"cli.py", "image.py", "spec.py"} <= {path.name for path in MODULES}
    assert own_imports(PACKAGE / "entries.py", types=False) == {"spec"}
    assert "entries" in own_imports(PACKAGE / "tree.py"), "imported for its types alone"
    assert own_imports(PACKAGE / "tree.py", types=False) == set()
    assert len(DEPTH) == sum(len(names.split()) for names, _ in LAYERS), "one layer each"


@every_module
def test_imports_point_down(path: Path) -> None:
    name = layer_name(path)
    assert name in DEPTH, f"{name} is in no layer"
    depth = DEPTH[name]
    wrong = {other for other in own_imports(path, types=False) if DEPTH.get(other, 99) <= depth}
    wrong |= {other for other in own_imports(path) if DEPTH.get(other, 99) < depth}
    assert wrong == set()


def test_every_layer_has_its_modules() -> None:
    assert DEPTH.keys() - {layer_name(path) for path in MODULES} == set()


@every_module
def test_who_may_know_what(path: Path) -> None:
    name, known = layer_name(path), packages(path)
    assert not known & {"rados", "rbd"} or name in STORAGE, "only the storage layer knows Ceph"
    assert "pyfuse3" not in known or name in KERNEL, "only the operations know pyfuse3"
    assert "trio" not in known or name not in PURE, "pure modules wait for nothing"


@every_module
def test_fuse_errors_are_raised_by_the_operations_alone(path: Path) -> None:
    raised = {
        ast.unparse(node.exc).split("(")[0].split(".")[-1]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise) and node.exc is not None
    }
    assert "FUSEError" not in raised or layer_name(path) == "operations"


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
