"""What another client has made and holds: `python -m tests.support.elsewhere CONF POOL`.

It fills an empty pool, prints a line when it has, and keeps two images open until its input ends.
contrib/mixed runs it with another version of Ceph than the tests that look at the pool.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rados
import rbd

from tests.support.images import MIB, random_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

# No whole number of objects, of pages or of sectors.
SIZE = 9 * MIB + 1234
_LATE = {4096: 4096, 5 * MIB: MIB, SIZE - 100: 100}
_MAPPED = (
    rbd.RBD_FEATURE_LAYERING
    | rbd.RBD_FEATURE_EXCLUSIVE_LOCK
    | rbd.RBD_FEATURE_OBJECT_MAP
    | rbd.RBD_FEATURE_FAST_DIFF
    | rbd.RBD_FEATURE_DEEP_FLATTEN
)
# Each with a snapshot `before`, and how it is made.
KINDS: dict[str, dict[str, Any]] = {
    "mapped": {"features": _MAPPED},
    "bare": {"features": rbd.RBD_FEATURE_LAYERING},
    "journaled": {"features": _MAPPED | rbd.RBD_FEATURE_JOURNALING},
    "striped": {"features": _MAPPED, "order": 20, "stripe_unit": 1 << 16, "stripe_count": 4},
}
# Clones of mapped@before by their format.
CLONES = {"clone-1": 1, "clone-2": 2}
NAMESPACE = "tenant"
# In the trash, under its name; moved there by a migration that has only been prepared; with the
# exclusive lock, for good; with a lock that is passed to who asks for it.
TRASHED, MIGRATING, HELD, SHARED = "trashed", "migrating", "held", "shared"
_ALONE = (TRASHED, HELD, SHARED)


def content(name: str) -> bytes:
    """What the image or snapshot of this file name was written with."""
    image, _, snap = name.partition("@")
    image = "mapped" if image in CLONES else image
    data = bytearray(SIZE)
    data[:MIB] = random_bytes(MIB, seed=zlib.crc32(image.encode()))
    if image in KINDS and not snap and name not in CLONES:
        for off, length in _LATE.items():
            data[off : off + length] = random_bytes(length, seed=off)
    return bytes(data)


def fill(cluster: rados.Rados, ioctx: rados.Ioctx) -> None:
    for name, options in KINDS.items():
        _make(ioctx, name, snapshot=True, **options)
    for name in _ALONE:
        _make(ioctx, name)
    client = rbd.RBD()
    with rbd.Image(ioctx, "mapped") as image:
        image.protect_snap("before")
    for name, clone_format in CLONES.items():
        cluster.conf_set("rbd_default_clone_format", str(clone_format))
        client.clone(ioctx, "mapped", "before", ioctx, name)
    client.namespace_create(ioctx, NAMESPACE)
    ioctx.set_namespace(NAMESPACE)
    _make(ioctx, "mapped", snapshot=True, **KINDS["mapped"])
    ioctx.set_namespace("")
    # A snapshot of no user's.
    client.group_create(ioctx, "group")
    group = rbd.Group(ioctx, "group")
    group.add_image(ioctx, "mapped")
    group.create_snap("of-group")
    client.trash_move(ioctx, TRASHED)
    _make(ioctx, f"{MIGRATING}-source", named=MIGRATING)
    client.migration_prepare(ioctx, f"{MIGRATING}-source", ioctx, MIGRATING)


def _make(
    ioctx: rados.Ioctx, name: str, *, named: str = "", snapshot: bool = False, **options: Any
) -> None:
    rbd.RBD().create(ioctx, name, SIZE, old_format=False, **options)
    named = named or name
    with rbd.Image(ioctx, name) as image:
        image.write(content(f"{named}@before")[:MIB], 0)
        if snapshot:
            image.create_snap("before")
            for off, length in _LATE.items():
                image.write(content(named)[off : off + length], off)


@contextlib.contextmanager
def filled(conf: Path, pool: str) -> Iterator[None]:
    """The pool as another process has filled it, which holds its images for the block's time."""
    command = [sys.executable, "-m", __name__, str(conf), pool]
    root = Path(__file__).resolve().parents[2]
    pipe = subprocess.PIPE
    # The end of the block closes its input.
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"filled\n"
        yield


def _main(conf: str, pool: str) -> None:
    with rados.Rados(conffile=conf, rados_id="admin") as cluster, cluster.open_ioctx(pool) as ioctx:
        fill(cluster, ioctx)
        with rbd.Image(ioctx, HELD) as held, rbd.Image(ioctx, SHARED) as shared:
            held.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)
            shared.write(content(SHARED)[:1], 0)
            sys.stdout.write("filled\n")
            sys.stdout.flush()
            sys.stdin.read()


if __name__ == "__main__":
    _main(*sys.argv[1:])
