"""A small file system over the data path, for its tests: run as a process of its own.

    python -m tests.datapath.server MOUNTPOINT CONFIG

CONFIG is JSON: `conf`, `pool`, `files` (a list of {name, image, snapshot, offset, length, writable,
flags}) and `mux` (arguments of Mux).  With `root` in place of `files` the mount point is a file.
Commands come as lines of JSON on stdin, and each is answered by a line; "ready" is the first one.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import stat
import sys
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import pyfuse3
import trio

from rbdfs.config.ceph_settings import UNTHROTTLED
from rbdfs.datapath.native import (
    INIT_FLAGS,
    Client,
    Completion,
    Image,
    Ioctx,
    Mux,
)
from rbdfs.kernel import connection, extra_requests

FIRST_INODE = 2


class File:
    """A file of the mount, opened in librbd when it is opened first."""

    def __init__(self, config: dict[str, Any], image: Image) -> None:
        self.name = config["name"].encode()
        self.image = image
        self.offset: int = config.get("offset", 0)
        self.length: int = config.get("length", image.size() - self.offset)
        self.writable: bool = config.get("writable", True) and not image.read_only
        self.flags: int = config.get("flags", 0)
        self.direct_io: bool = config.get("direct_io", False)


async def completed(submit: Any) -> tuple[int, bytes | None]:
    """The result of an aio request of an image."""
    done = trio.Event()
    token = trio.lowlevel.current_trio_token()
    result: list[tuple[int, bytes | None]] = []

    def oncomplete(completion: Completion, data: bytes | None = None) -> None:
        result.append((completion.get_return_value(), data))
        token.run_sync_soon(done.set)

    submit(oncomplete)
    with trio.CancelScope(shield=True):
        await done.wait()
    if result[0][0] < 0:
        raise pyfuse3.FUSEError(-result[0][0])
    return result[0]


class Operations(pyfuse3.Operations):
    def __init__(self, files: list[File], root: File | None, mux: Mux) -> None:
        super().__init__()
        self.files = dict(enumerate(files, FIRST_INODE))
        if root:
            self.files[pyfuse3.ROOT_INODE] = root
        self.mux = mux
        self.handles: dict[int, File] = {}
        self.next_fh = 1
        self.released: list[int] = []

    def _attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.attr_timeout = entry.entry_timeout = 60
        file = self.files.get(inode)
        if file:
            entry.st_mode = stat.S_IFREG | 0o666
            entry.st_size = file.length
            entry.st_blocks = file.length // 1024  # sparse: cp looks for holes
        else:
            entry.st_mode = stat.S_IFDIR | 0o755
        entry.st_blksize = 65536
        return entry

    async def getattr(self, inode: int, ctx: Any = None) -> pyfuse3.EntryAttributes:
        return self._attributes(inode)

    async def setattr(self, inode: int, attr: Any, fields: Any, fh: Any, ctx: Any) -> Any:
        return self._attributes(inode)

    async def lookup(self, parent: int, name: bytes, ctx: Any = None) -> pyfuse3.EntryAttributes:
        for inode, file in self.files.items():
            if file.name == name:
                return self._attributes(inode)
        raise pyfuse3.FUSEError(errno.ENOENT)

    async def opendir(self, inode: int, ctx: Any) -> int:
        return inode

    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        for inode, file in sorted(self.files.items()):
            if inode > start_id and not pyfuse3.readdir_reply(
                token, file.name, self._attributes(inode), inode
            ):
                return

    async def open(self, inode: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        file = self.files[inode]
        writing = flags & os.O_ACCMODE != os.O_RDONLY
        if writing and not file.writable:
            raise pyfuse3.FUSEError(errno.EROFS)
        fh, self.next_fh = self.next_fh, self.next_fh + 1
        self.handles[fh] = file
        self.mux.register(
            fh,
            file.image,
            file.offset,
            file.length,
            readable=flags & os.O_ACCMODE != os.O_WRONLY,
            writable=writing,
            open_flags=file.flags,
        )
        return pyfuse3.FileInfo(fh=fh, direct_io=file.direct_io, keep_cache=False)

    async def release(self, fh: int) -> None:
        del self.handles[fh]
        self.released.append(fh)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        raise pyfuse3.FUSEError(errno.EBADMSG)  # the data path reads

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """As a block device: short up to the end, then ENOSPC."""
        file = self.handles[fh & ~extra_requests.FH_DIRECT]
        data = buf[: max(0, file.length - off)]
        if not data:
            raise pyfuse3.FUSEError(errno.ENOSPC)
        await completed(partial(file.image.aio_write, data, file.offset + off))
        return len(data)

    async def fsync(self, fh: int, datasync: bool) -> None:
        raise pyfuse3.FUSEError(errno.EBADMSG)

    async def statfs(self, ctx: Any) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        return data

    async def extra(self, request: Any) -> bytes:
        """The answer to what pyfuse3 does not know."""
        file = self.handles.get(getattr(request, "fh", getattr(request, "fh_out", 0)))
        if file is None:
            return extra_requests.error_reply(request.unique, errno.EBADF)
        if isinstance(request, extra_requests.Lseek):
            # All data.
            hole = request.whence == os.SEEK_HOLE
            if request.offset >= file.length:
                return extra_requests.error_reply(request.unique, errno.ENXIO)
            return extra_requests.lseek_reply(request, file.length if hole else request.offset)
        if isinstance(request, extra_requests.Fallocate):
            start = file.offset + request.offset
            await completed(partial(file.image.aio_write_zeroes, start, request.length))
            return extra_requests.empty_reply(request.unique)
        return extra_requests.error_reply(request.unique, errno.EOPNOTSUPP)


async def serve_extra(operations: Operations, extra: trio.socket.SocketType) -> None:
    async with trio.open_nursery() as nursery:
        while message := await extra.recv(4096):
            request = extra_requests.parse(message)
            nursery.start_soon(answer, operations, request)


async def answer(operations: Operations, request: Any) -> None:
    try:
        reply = await operations.extra(request)
    except pyfuse3.FUSEError as exc:
        reply = extra_requests.error_reply(request.unique, exc.errno)
    operations.mux.reply(reply)


def say(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def obey(operations: Operations) -> None:
    """Commands: [name, arguments...], on files by their name."""
    mux, files = operations.mux, {file.name.decode(): file for file in operations.files.values()}
    while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        command, *arguments = json.loads(line)
        if command == "stats":
            usage = resource.getrusage(resource.RUSAGE_SELF)
            cpu_s = usage.ru_utime + usage.ru_stime
            say(mux.stats() | {"cpu_s": cpu_s, "fds": len(os.listdir("/proc/self/fd"))})
        elif command == "rss":
            pages = int((await trio.Path("/proc/self/statm").read_text()).split()[1])
            say(pages * 4096)
        elif command == "released":
            say(operations.released)
        elif command == "length":
            file = files[arguments[0]]
            file.length = arguments[1]
            for fh in [fh for fh, other in operations.handles.items() if other is file]:
                # A handle whose release has not come to Python yet is gone in the data path.
                with suppress(FileNotFoundError):
                    mux.set_length(fh, file.length)
            say(None)


async def terminate_at_end(mux: Mux) -> None:
    await trio.lowlevel.wait_readable(mux.fileno())
    pyfuse3.terminate()


async def call_back(client: Client) -> None:
    while True:
        await trio.lowlevel.wait_readable(client.fileno())
        client.run_callbacks()


async def serve(operations: Operations, client: Client, extra: trio.socket.SocketType) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call_back, client)
        nursery.start_soon(terminate_at_end, operations.mux)
        nursery.start_soon(serve_extra, operations, extra)
        nursery.start_soon(obey, operations)
        say("ready")
        await pyfuse3.main()
        nursery.cancel_scope.cancel()


class Images:
    """Each image and snapshot is opened once."""

    def __init__(self, stack: ExitStack, ioctx: Ioctx) -> None:
        self._stack, self._ioctx = stack, ioctx
        self._images: dict[tuple[str, str | None], Image] = {}

    def file(self, config: dict[str, Any]) -> File:
        which = config["image"], config.get("snapshot")
        if which not in self._images:
            image = self._images[which] = Image(self._ioctx, *which)
            self._stack.callback(image.close, 10.0)
        return File(config, self._images[which])


async def main(mountpoint: str, config: dict[str, Any]) -> None:
    with ExitStack() as stack:
        settings = [*UNTHROTTLED, ("rbd_cache", "false"), *config.get("settings", {}).items()]
        client = stack.enter_context(Client("admin", config["conf"], settings))
        client.connect()
        ioctx = stack.enter_context(client.open_ioctx(config["pool"]))
        images = Images(stack, ioctx)
        files = [images.file(file) for file in config.get("files", [])]
        root = images.file(config["root"]) if "root" in config else None
        pair = connection.socket_pair()
        extra, extra_theirs = trio.socket.socketpair(
            trio.socket.AF_UNIX, trio.socket.SOCK_SEQPACKET
        )
        options = connection.MountOptions(fsname="rbd,\\x", allow_other=True)
        fuse_fd = connection.open_kernel(mountpoint, options)
        stack.callback(os.close, fuse_fd)
        arguments = {"max_write": pair.max_request, "init_set": INIT_FLAGS} | config.get("mux", {})
        mux = Mux(fuse_fd, pair.ours, extra_theirs, **arguments)
        operations = Operations(files, root, mux)
        pyfuse3.init(operations, f"/dev/fd/{pair.theirs.detach()}", {"fsname=test"})
        mux.start()
        # Unmounted or not: an error must not leave a mount behind.
        stack.callback(connection_end, mountpoint, mux)
        for end in (pair.ours, extra_theirs):
            end.close()
        await serve(operations, client, extra)
        extra.close()
        await trio.to_thread.run_sync(mux.stop, 10.0)
        pyfuse3.close(unmount=False)


def connection_end(mountpoint: str, mux: Mux) -> None:
    if not mux.ended:
        connection.unmount(mountpoint, lazy=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    trio.run(main, sys.argv[1], json.loads(sys.argv[2]))
