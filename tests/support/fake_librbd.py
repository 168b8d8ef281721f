"""The native data path on a librbd in memory that does what the test says: fail, hold, go on.

A copy of the extension is loaded that needs libfak.so.1 where the original needs librbd.so.1,
so that both are in one process and know nothing of each other.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import subprocess
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rbdfs.datapath.native

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 8 << 20
_SOURCE = Path(__file__).with_suffix(".c")
# Of the same length, because the names are changed in place.
_RBD, _RADOS = b"libfak.so.1", b"libfakos.so.2"


class Call(IntEnum):
    """The calls of librbd whose results can be chosen; OTHER is every one that blocks but open."""

    READ, WRITE, FLUSH, ZERO, OPEN, OTHER = range(6)


class FakeLibrbd:
    """A copy of the extension, and the command of the librbd under it.

    Attributes:
        native: the extension, with all that ``rbdfs.datapath.native`` has.
    """

    def __init__(self, directory: Path) -> None:
        nothing = directory / "nothing.c"
        nothing.write_text("")
        self._libraries = [
            _built(directory / name.decode(), source)
            for name, source in ((_RBD, _SOURCE), (_RADOS, nothing))
        ]
        self.native: Any = _loaded(directory)

    @property
    def _fake(self) -> ctypes.CDLL:
        return self._libraries[0]

    def reset(self) -> None:
        """Succeed in everything, on an image of zeros."""
        self._fake.fake_reset()

    def answer(self, call: Call, error: int, *, at_once: bool = False) -> None:
        """Have every such request complete with *error*; 0: succeed.  *at_once*: not even begin."""
        self._fake.fake_result(call, 0 if at_once else -error, -error if at_once else 0)

    def count(self, call: Call) -> int:
        """How many such calls there were since reset()."""
        return int(self._fake.fake_count(call))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Complete no request for the time of the context."""
        self._fake.fake_hold(1)
        try:
            yield
        finally:
            self._fake.fake_hold(0)

    def release_keeping_python(self, seconds: float) -> None:
        """Complete what was held, while no other thread can run Python for some time."""
        function = ctypes.PyDLL(self._fake._name).fake_release_and_wait
        function(int(seconds * 1000))

    @contextmanager
    def image(self) -> Iterator[Any]:
        """An open image of SIZE bytes.  There is one content for all images."""
        with (
            self.native.Client("admin") as client,
            _connected(client).open_ioctx("pool") as ioctx,
            self.native.Image(ioctx, "image") as image,
        ):
            yield image


def _connected(client: Any) -> Any:
    client.connect()
    return client


def _built(path: Path, source: Path) -> ctypes.CDLL:
    options = ["-shared", "-fPIC", "-O1", "-g", "-pthread", f"-Wl,-soname,{path.name}"]
    subprocess.run(["gcc", *options, "-o", path, source], check=True)
    return ctypes.CDLL(str(path))


def _loaded(directory: Path) -> Any:
    original = Path(rbdfs.datapath.native.__file__)
    copy = directory / original.name
    copy.write_bytes(
        original.read_bytes()
        .replace(b"librbd.so.1\0", _RBD + b"\0")
        .replace(b"librados.so.2\0", _RADOS + b"\0")
    )
    name = "rbdfs.datapath.native"
    loader = importlib.machinery.ExtensionFileLoader(name, str(copy))
    spec = importlib.util.spec_from_file_location(name, copy, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module
