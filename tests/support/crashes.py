"""rbdfs whose server is killed at a chosen step: `python tests/crashes.py FILE ARGUMENT...`.

FILE holds `before MODULE:NAME` or `after MODULE:NAME`, where NAME is a coroutine function or a
CLASS.METHOD, or `within` and the method that has a migration prepared. The server that gets there
first removes FILE and kills itself; its successors do not know of it any more. With `always`
instead of `before`, each of them dies there too; with `abort` instead of `after` as well, and by a
signal of its own, as one that crashes; with `stop` instead of `after` it is stopped, and with
`hold` it waits there until FILE is removed; with `meanwhile` it runs the command that follows in
the next lines, a word each, and goes on. With what HALVES has (`half create` ...) it dies
within librbd, which does that in steps. The ARGUMENTS are those of rbdfs.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import signal
import struct
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rbd
import trio

from rbdfs.ceph import directory_changes, trash_changes
from rbdfs.ceph.blocking_image import encoded
from rbdfs.keeper import server_process
from rbdfs.model.encoding import encode_string
from rbdfs.moves.executor import Executor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# cls::rbd::TRASH_IMAGE_SOURCE_MIGRATION, TRASH_IMAGE_STATE_NORMAL and _MOVING.
_MIGRATION, _NORMAL, _MOVING = 2, 0, 1


def trash_source(ioctx: Any, name: bytes, image_id: str, how_far: str = "trashed") -> None:
    """Leave an image as librbd does that dies while it puts the source of a migration away.

    `how_far` it came: the image was "listed" in the trash; then "unnamed", with its `rbd_id` object
    gone; then "trashed", and the header to be marked next.
    """
    key, state = encode_string(image_id.encode()), _MOVING
    if how_far == "unnamed":
        ioctx.remove_object(f"rbd_id.{name.decode()}")
    elif how_far == "trashed":
        rbd.RBD().trash_move(ioctx, name, 0)
        ioctx.execute("rbd_trash", "rbd", "trash_remove", key)
        state = _NORMAL
    spec = bytes([_MIGRATION]) + encode_string(name) + bytes(2 * 8) + bytes([state])
    entry = struct.pack("<BBI", 2, 1, len(spec)) + spec
    ioctx.execute("rbd_trash", "rbd", "trash_add", key + entry)


def _wait_for_removal(path: Path) -> None:
    while path.exists():
        time.sleep(0.02)


def _run_once(control: Path, command: list[str]) -> None:
    if control.exists():
        control.unlink()
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)


def _into(create: Callable[..., object]) -> Callable[..., None]:
    """Make a clone as far as *create* makes an image."""

    def clone(_source: Any, _snap: Any, target: Any, name: str, *_arguments: Any) -> None:
        create(target, name)

    return clone


def no_create(*_arguments: Any) -> None:
    """What librbd does before it begins."""


def whole_create(ioctx: Any, name: str) -> None:
    """What librbd does before a clone is told of its parent."""
    rbd.RBD().create(ioctx, encoded(name), 4096, old_format=False)


def nearly_clone(source: Any, snap: Any, target: Any, name: str, *_arguments: Any) -> None:
    """What librbd does before it notes a clone of format 1 as a child, in the pool of that."""
    with rbd.Image(source, snap.image) as image, contextlib.suppress(rbd.ImageBusy):
        image.protect_snap(snap.snap)
    rbd.RBD().clone(source, snap.image, snap.snap, target, name)
    with rbd.Image(target, name, read_only=True) as made:
        child = encode_string(made.id().encode())
    key = snap.key
    parent = struct.pack("<q", key.pool_id) + encode_string(key.image_id.encode())
    argument = parent + struct.pack("<Q", key.snap_id) + child
    target.execute("rbd_children", "rbd", "remove_child", argument)


def barely_create(ioctx: Any, name: str, *_arguments: Any) -> bytes:
    """What librbd does before it notes the id, which is returned, under the name."""
    # One that it gives to images of this client.
    scratch = f"scratch-{uuid.uuid4().hex}"
    rbd.RBD().create(ioctx, scratch, 0)
    with rbd.Image(ioctx, scratch, read_only=True) as image:
        image_id = encode_string(image.id().encode())
    rbd.RBD().remove(ioctx, scratch)
    argument = encode_string(encoded(name)) + image_id
    ioctx.execute("rbd_directory", "rbd", "dir_add_image", argument)
    return image_id


def half_create(ioctx: Any, name: str, *_arguments: Any) -> bytes:
    """What librbd does before it makes the header."""
    image_id = barely_create(ioctx, name)
    ioctx.write_full(f"rbd_id.{name}", image_id)
    return image_id


def half_rename(ioctx: Any, entry: Any, name: str, _action: str) -> None:
    """What librbd does before it tells the directory."""
    ioctx.write_full(f"rbd_id.{name}", encode_string(entry.image_id.encode()))


def nearly_rename(ioctx: Any, entry: Any, name: str, action: str) -> None:
    """What librbd does before it removes the old name."""
    half_rename(ioctx, entry, name, action)
    names = (encode_string(each.encode()) for each in (entry.image, name, entry.image_id))
    ioctx.execute("rbd_directory", "rbd", "dir_rename_image", b"".join(names))


def half_trash(ioctx: Any, entry: Any, *_arguments: Any) -> rbd.Image:
    """What librbd does before it lists the image in the trash: it has it open, and locked."""
    image = rbd.Image(ioctx, entry.image)
    image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)
    return image


HALVES: dict[str, tuple[str, Callable[..., object]]] = {
    "no create": ("create_image", no_create),
    "no clone": ("clone_snapshot", no_create),
    "barely create": ("create_image", barely_create),
    "half create": ("create_image", half_create),
    "barely clone": ("clone_snapshot", _into(barely_create)),
    "half clone": ("clone_snapshot", _into(half_create)),
    "clone without parent": ("clone_snapshot", _into(whole_create)),
    "nearly clone": ("clone_snapshot", nearly_clone),
    "half rename": ("rename_image", half_rename),
    "nearly rename": ("rename_image", nearly_rename),
    "half trash": ("move_to_trash", half_trash),
}

SIGNALS = {"stop": signal.SIGSTOP, "abort": signal.SIGABRT}


def inject_half(control: Path, step: str) -> None:
    """Have this process killed half-way through a change of librbd's."""
    name, begin = HALVES[step]

    def crashing(*args: Any) -> None:
        held = begin(*args)
        control.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError(held)

    module = trash_changes if hasattr(trash_changes, name) else directory_changes
    setattr(module, name, crashing)


def inject(control: Path) -> None:
    """Have this process killed where `control` says."""
    line, *command = control.read_text().splitlines()
    when, _, target = line.partition(" ")
    if control.read_text() in HALVES:
        inject_half(control, control.read_text())
        return
    module, _, path = target.partition(":")
    *classes, name = path.split(".")
    owner = functools.reduce(getattr, classes, importlib.import_module(module))
    step: Callable[..., Awaitable[Any]] = getattr(owner, name)

    def crash() -> None:
        if when not in ("always", "abort"):
            control.unlink()
        os.kill(os.getpid(), SIGNALS.get(when, signal.SIGKILL))

    async def crashing(*args: Any, **kwargs: Any) -> Any:
        if when == "hold":
            await trio.to_thread.run_sync(_wait_for_removal, control)
            return await step(*args, **kwargs)
        if when == "meanwhile":
            await trio.to_thread.run_sync(_run_once, control, command)
            return await step(*args, **kwargs)
        if when == "within":
            migration = args[0]
            ioctx = await migration.ioctx(migration.source)
            trash_source(ioctx, migration.source.image.encode(), migration.source_id)
        if when not in ("after", "stop", "abort"):
            crash()
        result = await step(*args, **kwargs)
        crash()
        return result

    setattr(owner, name, crashing)


if __name__ == "__main__":
    control = Path(sys.argv.pop(1))
    if sys.argv[1] == "rbdfs.server":
        from rbdfs.server.__main__ import main as serve

        del sys.argv[1]
        Executor.notice_s = 3
        if control.exists():
            inject(control)
        sys.exit(serve())
    from rbdfs.cli import main

    server_process.SERVER = [sys.executable, __file__, str(control), "rbdfs.server"]
    sys.exit(main(sys.argv[1:]))
