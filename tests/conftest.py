"""Fixtures: one cluster for the suite, a pool for each module, a name for each image."""

from __future__ import annotations

import os
import shutil
import signal
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.ceph import Ceph
from tests.support.images import MIB, import_image, random_bytes
from tests.support.mounts import Mounting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.mounts import Mount


def pytest_configure() -> None:
    # A shell has what it starts in the background ignore SIGINT, and nohup(1) SIGHUP. What the
    # tests start would inherit that, and rbdfs leaves alone what its caller ignores.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--mount-option",
        action="append",
        default=[],
        metavar="OPT",
        help="an -o option of every mount, for example datapath=python",
    )


_WORKER_DIED = pytest.StashKey[bool]()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    if error:
        node.config.stash[_WORKER_DIED] = True


def pytest_sessionfinish(session: pytest.Session) -> None:
    # xdist ends the run with its worker (contrib/test), and calls that a test that failed: what was
    # not run any more has not passed.
    if session.config.stash.get(_WORKER_DIED, False):
        session.exitstatus = pytest.ExitCode.INTERRUPTED


# Their tests run over both data paths, all others over the one that users get: most of what lies
# above is the same code.
_OVER_BOTH_DATA_PATHS = frozenset(
    f"tests.mount.test_{name}" for name in ("fio", "life_cycle", "qemu", "reading", "writing")
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen = any(
        option.startswith("datapath=") for option in metafunc.config.getoption("--mount-option")
    )
    over_both = metafunc.module.__name__ in _OVER_BOTH_DATA_PATHS and not chosen
    if over_both and "mount_options" in metafunc.fixturenames:
        metafunc.parametrize("mount_options", ["native", "python"], indirect=True)


# What takes longest comes first, or one of the workers ends with it alone.
_LONGEST = (
    "tests.moves.test_interrupted",
    "tests.faults.test_cluster",
    "tests.keeper.test_load",
    "tests.moves.test_shared",
    "tests.faults.test_full",
    "tests.keeper.test_life_cycle",
    "tests.keeper.test_stopped",
)


def _place(item: pytest.Item) -> int:
    module = item.getparent(pytest.Module)
    name = "" if module is None else module.obj.__name__
    return _LONGEST.index(name) if name in _LONGEST else len(_LONGEST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place)
    for item in items:
        if "ceph" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """The cluster of the suite (memstore, one OSD).

    RBDFS_TEST_CLUSTER=DIR uses the one of `contrib/cluster start DIR`, and leaves it running.
    """
    running = os.environ.get("RBDFS_TEST_CLUSTER")
    if running:
        yield Ceph(Path(running).resolve())
        return
    if shutil.which("ceph-mon") is None:
        pytest.skip("ceph-mon is not installed (contrib/setup installs it)")
    cluster = Ceph.start(tmp_path_factory.mktemp("ceph"))
    try:
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def pool(ceph: Ceph) -> Iterator[str]:
    """The name of an empty pool of the test module."""
    with ceph.temporary_pool() as name:
        yield name


@pytest.fixture(scope="module")
def pools(ceph: Ceph) -> Iterator[tuple[str, str]]:
    """The names of two empty pools of the test module, for what moves from one to the other."""
    with ceph.temporary_pool("hdd") as hdd, ceph.temporary_pool("ssd") as ssd:
        yield hdd, ssd


@pytest.fixture
def image_name() -> str:
    """A name that no other test uses."""
    return f"image-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def image(ceph: Ceph, pool: str, image_name: str) -> str:
    """An image of a mebibyte, the same bytes each time."""
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    return image_name


@pytest.fixture
def mount_options(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The `-o` options of every mount: those of --mount-option, and the parameter's data path."""
    options = tuple(request.config.getoption("--mount-option"))
    data_path = getattr(request, "param", None)
    return options if data_path is None else (*options, f"datapath={data_path}")


@pytest.fixture
def native(mount_options: tuple[str, ...]) -> None:
    """For tests of what pyfuse3 alone cannot do: fallocate, lseek, copy_file_range, a keeper."""
    if "datapath=python" in mount_options:
        pytest.skip("libfuse 3.14 passes on no fallocate, lseek and copy_file_range; no keeper")


@pytest.fixture
def mounting(ceph: Ceph, tmp_path: Path, mount_options: tuple[str, ...]) -> Mounting:
    """Makes mounts: `with mounting(pool, "-o", "ro") as mount: ...`."""
    return _mounting(ceph, tmp_path / "mounts", mount_options)


@pytest.fixture(scope="module")
def module_mounting(
    ceph: Ceph, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Mounting:
    """Makes mounts that the tests of a module share; with the options of --mount-option."""
    options = tuple(pytestconfig.getoption("--mount-option"))
    return _mounting(ceph, tmp_path_factory.mktemp("module") / "mounts", options)


def _mounting(ceph: Ceph, directory: Path, options: tuple[str, ...]) -> Mounting:
    if os.geteuid() != 0:
        pytest.skip("needs root: /dev/fuse is opened and mounted with mount(2)")
    if not os.path.exists("/dev/fuse"):
        pytest.skip("needs /dev/fuse (modprobe fuse)")
    directory.mkdir()
    return Mounting(ceph, directory, options)


@pytest.fixture
def mount(mounting: Mounting, pool: str) -> Iterator[Mount]:
    """The module's pool, mounted with nothing but the default options."""
    with mounting(pool) as mount:
        yield mount


@pytest.fixture(scope="module")
def ioctx(ceph: Ceph, pool: str) -> Iterator[Any]:
    """The module's pool, for calls of librbd by a client that is not rbdfs."""
    with ceph.connect() as cluster, cluster.open_ioctx(pool) as ioctx:
        yield ioctx
