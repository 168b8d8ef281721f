"""Whatever an operation raises, the kernel gets an errno and the mount lives."""

from __future__ import annotations

import errno
import inspect
import logging
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
import trio
from pyfuse3 import FUSEError

from rbdfs.files.keeping import Unremembered
from rbdfs.fuse.operations import Operations, replies_errno
from rbdfs.model.metering import Metering


@replies_errno
async def operation(error: BaseException | None) -> str:
    if error is not None:
        raise error
    return "answer"


async def reply(error: BaseException) -> int:
    """The errno that the kernel gets."""
    with pytest.raises(FUSEError) as caught:
        await operation(error)
    return int(caught.value.errno)


async def test_an_answer_passes() -> None:
    assert await operation(None) == "answer"
    assert operation.__name__ == "operation"


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EROFS, errno.ENOSPC, errno.ESHUTDOWN])
async def test_an_oserror_is_its_errno(code: int) -> None:
    assert await reply(OSError(code, "pool/vm1: read 0~512")) == code


@pytest.mark.parametrize("error", [OSError(), OSError("no number"), OSError(0, "none")])
async def test_an_oserror_without_errno_is_eio(error: OSError) -> None:
    assert await reply(error) == errno.EIO


async def test_a_subclass_of_oserror_is_one() -> None:
    assert await reply(TimeoutError(errno.ETIMEDOUT, "no answer")) == errno.ETIMEDOUT


@pytest.mark.parametrize(
    "error",
    [
        ValueError("odd"),
        KeyError("missing"),
        RecursionError(),
        MemoryError(),
        AssertionError("never"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        ExceptionGroup("several", [OSError(errno.ENOENT, "one"), ValueError("other")]),
    ],
    ids=repr,
)
async def test_any_exception_is_eio_with_a_traceback(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    assert await reply(error) == errno.EIO
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "operation" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is error


async def test_an_io_error_is_in_the_log_with_its_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await reply(OSError(errno.ESHUTDOWN, "pool/vm1: write 4096~512: fenced"))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "pool/vm1: write 4096~512: fenced" in record.getMessage()


async def test_what_a_caller_may_expect_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    for code in (errno.ENOENT, errno.EXDEV, errno.EROFS, errno.EPERM, errno.ENOSPC):
        await reply(OSError(code, "as it should be"))
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


async def test_a_fuse_error_passes(caplog: pytest.LogCaptureFixture) -> None:
    error = FUSEError(errno.ENOTDIR)
    with pytest.raises(FUSEError) as caught:
        await operation(error)
    assert caught.value is error
    assert caplog.records == []


async def test_cancellation_passes(caplog: pytest.LogCaptureFixture) -> None:
    @replies_errno
    async def wait() -> None:
        await trio.sleep_forever()

    with trio.CancelScope() as scope:
        scope.cancel()
        await wait()
    assert scope.cancelled_caught
    assert caplog.records == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
async def test_what_ends_the_process_passes(error: BaseException) -> None:
    with pytest.raises(type(error)):
        await operation(error)


@pytest.mark.parametrize("fault", ["begin", "end"])
async def test_a_fault_in_counting_is_that_of_one_request(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And not of the mount, which an exception that leaves an operation ends."""

    async def read(_off: int, size: int) -> bytes:
        return bytes(size)

    async def opened(_fh: int) -> Any:
        return SimpleNamespace(read=read)

    class Handles(dict[int, Any]):
        ready = staticmethod(opened)

    metering = Metering.unread()
    file = SimpleNamespace(entry=SimpleNamespace(image_spec="rbd/vm1"))
    mounted: Any = SimpleNamespace(metering=metering, handles=Handles({7: file}))
    operations: Any = Operations(mounted, Unremembered())
    assert await operations.read(7, 0, 512) == bytes(512)
    with monkeypatch.context() as patched:
        patched.delattr(Metering, fault)
        with pytest.raises(FUSEError) as caught:
            await operations.read(7, 0, 512)
    assert caught.value.errno == errno.EIO
    assert [record.getMessage() for record in caplog.records] == ["read failed"]
    assert list(operations.running) == []
    assert await operations.read(7, 0, 512) == bytes(512)


def test_every_request_that_has_a_reply_has_the_boundary() -> None:
    # FORGET has no reply; stacktrace and init are no requests of an application; for POLL the
    # kernel's own answer to ENOSYS is the right one for every file: always ready.
    without_reply = {"forget", "init", "stacktrace", "poll"}
    bare = [
        name
        for name, method in inspect.getmembers(Operations, inspect.isfunction)
        if not name.startswith("_")
        and name not in without_reply
        and not hasattr(method, "__wrapped__")
    ]
    assert bare == []


def test_no_request_is_left_to_pyfuse3() -> None:
    """Its own methods answer ENOSYS, for which the kernel turns a request off for the mount."""
    names = {
        name
        for name, method in vars(pyfuse3.Operations).items()
        if inspect.iscoroutinefunction(method)
    }
    assert len(names) > 20
    # A file is always ready, which is what the kernel makes of ENOSYS.
    assert names - set(vars(Operations)) <= {"poll"}
