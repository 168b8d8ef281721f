"""The mount point: resolved once, what it has to be before, and mounting on it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import signal
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from rbdfs.config.runtime_directory import runtime_directory
from rbdfs.errors import UserError
from rbdfs.kernel import connection
from rbdfs.kernel.mount import FILE_SYSTEM, Mount, entry_of, place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rbdfs.config.mount_options import MountOptions
    from rbdfs.kernel.mount import Entry

log = logging.getLogger(__name__)

# cp of a 1 GiB snapshot took 1.23 s with 2 MiB, 1.14 s with 4 MiB and 1.06 s with 8 MiB; of a thin
# one, whose holes are read ahead too, 0.35 s, 0.40 s and 0.46 s.
_READ_AHEAD_KB = 4096
# How long a mount that is in the way may take to say that it lives, in seconds.
_ANSWER_S = 5.0
# What is known of a mount whose server was asked.
ALIVE, DEAD = "alive", "dead"


def resolve(path: str) -> str:
    """Return the absolute path that *path* leads to, without any symbolic link; raise UserError.

    From here on a symbolic link that is put in its way changes nothing, or is an error.
    """
    try:
        # The mount that may be there is not asked, alive, hung or dead; nor does autofs mount.
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as exc:
        raise UserError(f"mount point {path!a}: {exc.strerror}") from exc
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def rbdfs_entry(path: str) -> Entry | None:
    """Return the mount of rbdfs that *path* is on, None where it is on none; raise UserError.

    No file system is asked, so that one that hangs does no harm here.
    """
    try:
        entry = entry_of(place(path, follow=True))
    except OSError as exc:
        raise UserError(f"{path!a}: {exc.strerror}") from exc
    return entry if entry is not None and entry.file_system == FILE_SYSTEM else None


def check_mountpoint(options: MountOptions) -> None:
    """Raise UserError where nothing can be mounted on the resolved mount point of *options*.

    A mount of rbdfs whose server is dead is no hindrance: mount() clears it away, and nobody else,
    because the bare directory below it would be mirrored as a deletion of everything.
    """
    with _opened(options.mountpoint) as descriptor:
        if not _is_dead(descriptor, options.mountpoint):
            _check_bare(descriptor, options)


def mount(options: MountOptions) -> tuple[int, Mount]:
    """Mount; return the kernel's descriptor, and which mount it is. Raises UserError.

    What is checked is what is mounted on: one descriptor, whatever the path means by then.
    """
    path = options.mountpoint
    with _one_at_a_time():
        _clear_dead(path)
        with _opened(path) as descriptor:
            if _is_dead(descriptor, path):
                raise UserError(f"mount point {path!a} is in use: it cannot be cleared")
            _check_bare(descriptor, options)
            try:
                fuse = connection.open_kernel(path, _settings(options), descriptor=descriptor)
            except OSError as exc:
                raise UserError(f"cannot mount on {path!a}: {exc.strerror}") from exc
        try:
            return fuse, Mount.at(path)
        except OSError as exc:
            os.close(fuse)
            raise UserError(f"mount point {path!a}: {exc.strerror}") from exc


def _settings(options: MountOptions) -> connection.MountOptions:
    return connection.MountOptions(
        fsname=str(options.source),
        read_only=options.read_only,
        flags=options.flags,
        allow_other=options.allow_other,
        # Without it the kernel lets others do everything; with it, the mounting user gets EACCES
        # where EROFS would say what is wrong.
        default_permissions=options.allow_other,
    )


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Keep other starts from mounting between this one's look at the mount point and its end."""
    directory = runtime_directory()
    if directory is None:
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    """Open what is on a resolved path, or mounted there; raise UserError where it has changed."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as exc:
        raise UserError(f"mount point {path!a}: {exc.strerror}") from exc
    try:
        found = os.readlink(f"/proc/self/fd/{descriptor}")
        if found != path:
            raise UserError(f"mount point {path!a} leads to {found!a} by now")
        yield descriptor
    finally:
        os.close(descriptor)


def _is_dead(descriptor: int, path: str) -> bool:
    """Tell whether a mount of rbdfs is there whose server has gone.

    Raises UserError where anything else is mounted. Something that is to be mounted once somebody
    looks (autofs, as x-systemd.automount has it) is not: this may be the mount that it waits for.
    """
    where = place(descriptor)
    entry = entry_of(where) if where.is_root else None
    if entry is None or entry.file_system == "autofs":
        return False
    if entry.file_system == FILE_SYSTEM and life(path, _ANSWER_S) == DEAD:
        return True
    raise UserError(f"mount point {path!a} is in use: {entry.file_system} is mounted there")


def life(path: str, timeout_s: float) -> str | None:
    """Return whether the mount of rbdfs on *path* is ALIVE or DEAD; None where nobody can tell.

    The kernel answers who may not use the mount by itself: it is of another user then.
    """
    # In a process of its own: a server that hangs would keep whoever asks it, for good.
    asking = subprocess.Popen(
        ["stat", "--file-system", "--", path],
        env={**os.environ, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        _, message = asking.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        asking.kill()
        # It ends when that server does; nobody waits for it.
        asking.returncode = -signal.SIGKILL
        return None
    if os.strerror(errno.ENOTCONN) in message:
        return DEAD
    return ALIVE if asking.returncode == 0 else None


def _clear_dead(path: str) -> None:
    with _opened(path) as descriptor:
        if not _is_dead(descriptor, path):
            return
    log.info("clearing the dead mount on %a", path)
    try:
        Mount.at(path).detach()
    except OSError as exc:
        raise UserError(f"the dead mount on {path!a} stays: {exc.strerror}") from exc


def _check_bare(descriptor: int, options: MountOptions) -> None:
    """Raise UserError unless what is open as *descriptor* can be mounted on."""
    path, mode = options.mountpoint, os.fstat(descriptor).st_mode
    if options.source.is_file:
        if not stat.S_ISREG(mode):
            raise UserError(f"mount point {path!a} is not a regular file, as one image needs")
        return
    if not stat.S_ISDIR(mode):
        raise UserError(f"mount point {path!a} is not a directory")
    if options.nonempty or place(descriptor).is_root:
        # autofs: who opens it waits for the mount that this process is to make.
        return
    try:
        with os.scandir(f"/proc/self/fd/{descriptor}") as names:
            if any(names):
                raise UserError(f"mount point {path!a} is not empty (-o nonempty allows it)")
    except OSError as exc:
        raise UserError(f"mount point {path!a}: {exc.strerror}") from exc


def raise_read_ahead(mount: Mount) -> None:
    """Have the kernel read further ahead: its 128 KiB are one small request at a time for cp.

    To be called once the kernel has had its answer to INIT, which can only lower it.
    """
    try:
        if mount.where() is None:
            return
        setting = Path(f"/sys/class/bdi/{mount.device}/read_ahead_kb")
        setting.write_text(f"{_READ_AHEAD_KB}\n")
    except OSError as exc:
        # Root's to set: without it, sequential reads through the page cache are slower.
        log.debug("read-ahead stays as it is: %s", exc)


def sync(path: str) -> None:
    """Have what is dirty in the page cache written; blocks, and says nothing of errors."""
    # Not in the process that serves: killed meanwhile, its thread would wait for an answer that
    # nobody gives, and keep it from ending.
    subprocess.run(
        ["sync", "--file-system", path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
