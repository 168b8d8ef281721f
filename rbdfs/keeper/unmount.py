"""``rbdfs umount MNT``: the end of a mount, waited for."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from typing import TYPE_CHECKING, Any

from rbdfs.errors import UserError
from rbdfs.keeper.command_client import ANSWER_BYTES, connected, entry_at, parsed_answer
from rbdfs.keeper.command_socket import peer_of
from rbdfs.keeper.meters_client import meters_of
from rbdfs.kernel.mount import Mount
from rbdfs.kernel.mount_users import users_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from rbdfs.keeper.meters_client import MetersReader

    Watch = Callable[[float, MetersReader | None], None]
    """Called with the seconds since it was unmounted, and the mount's meters, if it has any."""

# How long a keeper may take to be found, in seconds: one that hangs is no reason to stay mounted.
_TURN_S = 5.0
# How often who watches is called, in seconds.
_WATCH_S = 1.0


def unmount(path: str, timeout_s: float, watch: Watch | None = None) -> dict[str, Any]:
    """Unmount, and return when all is flushed and closed, with what was unmounted.

    While that takes long, *watch* is called each second, see Watch.
    Raises UserError: where nothing was unmounted, who keeps it busy; and where it was, but not all
    is closed within *timeout_s*, or its end was not clean.
    """
    entry = entry_at(path, "umount")
    try:
        mount = Mount.at(path)
    except OSError as exc:
        where = f"in the mount of rbdfs on {entry.mountpoint!a}"
        raise UserError(f"{path!a} is no mount point, but {where}") from exc
    with contextlib.ExitStack() as stack:
        keeper = meters = None
        # Who is not answered (by a keeper that was killed, of another user's, of none with
        # datapath=python) may unmount all the same.
        with contextlib.suppress(UserError, OSError):
            keeper = stack.enter_context(connected(path, entry, _TURN_S))
            # It answers when the mount is over.
            keeper.send(b"wait")
            if watch is not None:
                # Nobody gives them any more once it is unmounted; the server goes on writing them.
                meters = stack.enter_context(meters_of(path, entry, _TURN_S))
        _unmount(path, mount)
        if keeper is not None:
            look = None if watch is None else lambda seconds: watch(seconds, meters)
            _wait(path, keeper, timeout_s, look)
    return {
        "source": entry.source,
        "mountpoint": mount.path,
        "unmounted": True,
        "waited": keeper is not None,
    }


def _unmount(path: str, mount: Mount) -> None:
    try:
        mount.unmount()
    except OSError as exc:
        if exc.errno == errno.EINVAL:
            raise UserError(f"{path!a} was unmounted by somebody else meanwhile") from exc
        if exc.errno != errno.EBUSY:
            raise UserError(f"{path!a} stays mounted: {exc.strerror}") from exc
        users = users_of(mount.path, mount.device)
        raise UserError(f"{path!a} is busy: {users}", facts=users.record()) from exc


def _wait(
    path: str, keeper: socket.socket, timeout_s: float, look: Callable[[float], None] | None
) -> None:
    """Return when the keeper's process has ended; raise UserError where it does not, or badly."""
    deadline = time.monotonic() + timeout_s
    pid, _ = peer_of(keeper)
    try:
        answer = parsed_answer(path, _received(keeper, timeout_s, look))
    except TimeoutError as exc:
        raise _unfinished(
            path, f"not all is closed after {timeout_s:g} s, process {pid} goes on"
        ) from exc
    except (UserError, OSError) as exc:
        raise _unfinished(path, "its keeper has gone without a word") from exc
    if answer.get("exit_code"):
        raise _unfinished(path, "its end was not clean, its log says why")
    # One of before an upgrade does not know the question: its end is an answer too.
    if not _has_ended(pid, deadline - time.monotonic()) and "error" in answer:
        raise _unfinished(path, f"process {pid} goes on after {timeout_s:g} s")


def _received(
    keeper: socket.socket, timeout_s: float, look: Callable[[float], None] | None
) -> bytes:
    """Return what the keeper says; raise TimeoutError. Meanwhile *look* is called each second."""
    begun = time.monotonic()
    while look is not None and (seconds := time.monotonic() - begun) < timeout_s:
        if select.select([keeper], [], [], min(_WATCH_S, timeout_s - seconds))[0]:
            break
        look(time.monotonic() - begun)
    keeper.settimeout(max(begun + timeout_s - time.monotonic(), 0.001))
    return keeper.recv(ANSWER_BYTES)


def _unfinished(path: str, reason: str) -> UserError:
    return UserError(f"{path!a} is unmounted, but {reason}", facts={"unmounted": True})


def _has_ended(pid: int, timeout_s: float) -> bool:
    """Wait for the end of a process, which is none of ours."""
    try:
        descriptor = os.pidfd_open(pid)
    except (OSError, ValueError):
        # It has, or is in another namespace.
        return True
    try:
        return bool(select.select([descriptor], [], [], max(timeout_s, 0))[0])
    finally:
        os.close(descriptor)
