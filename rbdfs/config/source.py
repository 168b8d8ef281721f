"""What is mounted: a pool, a namespace, all pools, or one image as QEMU names it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbdfs.config.absolute_path import absolute
from rbdfs.errors import EXIT_USAGE, UserError
from rbdfs.model.file_name import FileName, parse_source
from rbdfs.model.qemu_filename import parse_qemu_filename
from rbdfs.model.record import known_fields

if TYPE_CHECKING:
    from rbdfs.config.ceph_settings import CephSettings


@dataclass(frozen=True, slots=True)
class Source:
    """What is mounted.

    Attributes:
        pool: None for all pools.
        namespace: "" for the default namespace of the pool.
        image: the one image or snapshot that is the mount, None for a directory.
    """

    pool: str | None = None
    namespace: str = ""
    image: FileName | None = None

    @property
    def is_file(self) -> bool:
        return self.image is not None

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Source:
        """Return the source that asdict() was made of."""
        known = known_fields(cls, record)
        if known["image"] is not None:
            known["image"] = FileName(**known_fields(FileName, known["image"]))
        return cls(**known)

    def __str__(self) -> str:
        """The text that mount(8) and df(1) show, without QEMU's options: a key may be there."""
        if self.pool is None:
            return "rbdfs"
        text = "/".join(part for part in (self.pool, self.namespace) if part)
        if self.image is not None:
            snap = "" if self.image.snap is None else f"@{self.image.snap}"
            text = f"rbd:{text}/{self.image.image}{snap}"
        # As an argument or path of this process has it, whatever its locale.
        return os.fsdecode(text.encode("utf-8", "surrogateescape"))


def resolve_source(
    text: str | None, settings: CephSettings, directory: Path
) -> tuple[Source, CephSettings]:
    """Return what *text* (None: all pools) names, and *settings* with what QEMU's form adds.

    What ``rbd:...:KEY=VALUE`` says comes before what the rest of the command line says; a path in
    it is relative to *directory*. Raises UserError.
    """
    if text is None:
        return Source(), settings
    # What Python makes of an argument depends on the locale.
    text = os.fsencode(text).decode("utf-8", "surrogateescape")
    try:
        if not text.startswith("rbd:"):
            pool, namespace = parse_source(text)
            return Source(pool, namespace), settings
        name = parse_qemu_filename(text)
    except ValueError as exc:
        raise UserError(str(exc), EXIT_USAGE) from exc
    settings = replace(
        settings,
        user=settings.user or name.id,
        conf=settings.conf or (None if name.conf is None else Path(absolute(name.conf, directory))),
        pairs=(*name.options, *settings.pairs),
    )
    return Source(name.pool, name.namespace, FileName(name.image, name.snap)), settings
