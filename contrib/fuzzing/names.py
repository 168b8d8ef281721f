"""Names that users give: QEMU's `rbd:`, file names, command lines; and the kernel's mount points.

An input: a byte for what it is, and the name.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from fuzzing.parts import Parts
from rbdfs.config.ceph_settings import CephSettings
from rbdfs.config.command_line import parse_arguments
from rbdfs.config.mount_options import MountOptions
from rbdfs.config.option_words import apply_options
from rbdfs.config.source import resolve_source
from rbdfs.errors import NameTooLong, UserError
from rbdfs.kernel.mount import parsed_entry
from rbdfs.model.file_name import (
    ImageSpec,
    directory_name,
    file_name,
    parse_directory_name,
    parse_file_name,
    parse_source,
    partition_name,
    split_partition,
)
from rbdfs.model.qemu_filename import QemuFileName, format_qemu_filename, parse_qemu_filename


def _qemu(parts: Parts) -> None:
    text = parts.rest().decode("utf-8", "surrogateescape")
    with contextlib.suppress(ValueError):
        name = parse_qemu_filename("rbd:" + text)
        _formatted(name)


def _formatted(name: QemuFileName) -> None:
    """What can be formatted is parsed as what it was."""
    try:
        text = format_qemu_filename(name)
    except ValueError:
        # NUL, an empty name, or an option that is a field of its own.
        return
    assert parse_qemu_filename(text) == name, text


def _qemu_fields(parts: Parts) -> None:
    flags = parts.number()
    pool, image, namespace, snap = (parts.text() for _ in range(4))
    options = []
    while parts:
        options.append((parts.text(), parts.text()))
    user = options.pop()[1] if flags & 2 and options else None
    snap_or_none = snap if flags & 1 else None
    _formatted(QemuFileName(pool, image, namespace, snap_or_none, user, None, tuple(options)))


def _file_name(parts: Parts) -> None:
    name = parts.rest()
    with contextlib.suppress(ValueError):
        found = parse_file_name(name)
        assert file_name(found.image, found.snap, snap_id=found.snap_id) == name
        spec = str(ImageSpec("pool", "", found.image, found.snap, found.snap_id))
        assert spec.encode()
        assert spec.isascii() or "\n" not in spec
    with contextlib.suppress(ValueError):
        directory, alias = parse_directory_name(name)
        assert directory_name(directory, alias=alias) == name
    split = split_partition(name)
    if split is not None:
        with contextlib.suppress(NameTooLong):
            assert partition_name(*split) == name


def _image_name(parts: Parts) -> None:
    image, snap, snap_id = parts.text(), parts.text(), parts.number(8)
    for names in ((image,), (image, snap)):
        with contextlib.suppress(ValueError):
            found = parse_file_name(file_name(*names))
            assert (found.image, found.snap) == (image, *names[1:], None)[:2]
    with contextlib.suppress(ValueError):
        found = parse_file_name(file_name(image, snap_id=snap_id))
        assert (found.image, found.snap_id) == (image, snap_id)
    with contextlib.suppress(ValueError):
        assert parse_directory_name(directory_name(image)) == (image, False)
        assert parse_directory_name(directory_name(image, alias=True)) == (image, True)


def _source(parts: Parts) -> None:
    text = os.fsdecode(parts.rest())
    with contextlib.suppress(ValueError):
        pool, namespace = parse_source(text)
        assert f"{pool}/{namespace}".removesuffix("/") == text
    with contextlib.suppress(UserError):
        source, settings = resolve_source(text, CephSettings(), Path("/srv"))
        str(source)
        assert CephSettings.from_record(settings.record()) == settings


def _options(parts: Parts) -> None:
    text = os.fsdecode(parts.rest())
    with contextlib.suppress(UserError):
        options = apply_options(MountOptions(), [text])
        assert MountOptions.from_record(options.record()) == options
        assert options.ceph_settings.pairs


def _command_line(parts: Parts) -> None:
    arguments = [os.fsdecode(argument) for argument in parts.rest().split(b"\0")]
    if {"-h", "--help", "--version"} & set(arguments) or any(
        argument[:1] == "-" and argument[:2] != "--" and "h" in argument for argument in arguments
    ):
        return  # It prints, and ends the process.
    with contextlib.suppress(UserError):
        options = parse_arguments(arguments, Path("/srv"))
        assert MountOptions.from_record(options.record()) == options


def _mount_entry(parts: Parts) -> None:
    """The kernel writes the line, but its user the mount point and the name of the source."""
    mountpoint, source = "/" + _mangled(parts.chunk()), _mangled(parts.chunk())
    line = f"36 35 98:0 / {mountpoint} rw,noatime shared:1 - fuse.rbdfs {source} rw,user_id=7"
    entry = parsed_entry(line)
    assert (entry.mount_id, entry.device, entry.owner) == (36, "98:0", 7)
    assert _mangled(os.fsencode(entry.mountpoint)) == mountpoint


def _mangled(path: bytes) -> str:
    """As seq_path() of the kernel."""
    for byte in b"\\ \t\n":
        path = path.replace(bytes([byte]), b"\\%03o" % byte)
    return path.replace(b"\0", b"").decode("utf-8", "surrogateescape")


_KINDS = (
    *(_qemu, _qemu_fields, _file_name, _image_name, _source, _options, _command_line),
    _mount_entry,
)


def check(data: bytes) -> None:
    parts = Parts(data)
    _KINDS[parts.number() % len(_KINDS)](parts)
