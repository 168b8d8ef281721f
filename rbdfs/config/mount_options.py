"""Mount options: their values and defaults. How they are said is in option_words."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rbdfs.config.ceph_settings import CephSettings
from rbdfs.config.source import Source
from rbdfs.model.record import known_fields

# What each cache mode tells librbd, after everything else, as QEMU does. An acknowledged write
# is on the OSDs with none and writethrough, and may be in memory with the others.
CACHE_SETTINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "none": (("rbd_cache", "false"),),
    "writethrough": (("rbd_cache", "true"), ("rbd_cache_policy", "writethrough")),
    "writeback": (("rbd_cache", "true"), ("rbd_cache_policy", "writeback")),
    "unsafe": (
        ("rbd_cache", "true"),
        ("rbd_cache_policy", "writeback"),
        ("rbd_cache_writethrough_until_flush", "false"),
    ),
}


OWNERSHIP = ("uid", "gid", "umask")


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Everything that one mount was asked for. Defaults are what an operator gets.

    Attributes:
        source: what is mounted.
        mountpoint: absolute path.
        uid, gid: owner of every file, unless its image says otherwise.
        umask: bits taken off 0666 for images, 0444 for snapshots, 0777 for directories.
        dmask: bits taken off 0777 for directories alone; None: umask.
        dictated: which of uid, gid and umask were asked for, and hold whatever the images say.
        snapshots: visible, hidden (found by name, not listed), off, or all (any by its id).
        partitions: whether partitions are files too.
        sector_size: of MBR partition tables, in bytes: 512 or 4096.
        lock: exclusive (one writing client, which keeps the image), transient (as exclusive, but
            others that want to write wait), or auto (cooperating writers).
        cache: librbd's cache: none, writethrough, writeback or unsafe.
        direct_io: never use the kernel's page cache.
        trim: whether discards reach the cluster.
        data_path: native or python; None means native where the extension is there.
        quiet: whether a change of mode or owner that cannot be kept succeeds all the same.
        manage: whether images can be made, removed, renamed and moved to other pools.
        remove_snapshots: whether snapshots can be removed, which cannot be undone.
        data_pool, object_size: for images that are made; None means the cluster's default.
        connect_timeout_s: how long reaching the cluster may take, in seconds.
        timeout_s: how long a request may take, in seconds; None means that it waits for ever.
        flags: words of mount(8) that the kernel keeps of a mount, as noexec.
        abort_on_full: whether what a full pool has no room for fails, instead of waiting.
        metrics: where who scrapes the metrics connects: ADDR:PORT, or an absolute path.
        metrics_images: whether each image has series of its own.
        debug: whether each request is logged, as with the log_level debug.
        log_level: the least that is logged: debug, info, warning or error.
    """

    source: Source = Source("rbd")
    mountpoint: str = ""
    ceph: CephSettings = field(default_factory=CephSettings)
    read_only: bool = False
    flags: tuple[str, ...] = ()
    allow_other: bool = False
    nonempty: bool = False
    uid: int = field(default_factory=os.getuid)
    gid: int = field(default_factory=os.getgid)
    umask: int = 0o077
    dmask: int | None = None
    dictated: tuple[str, ...] = ()
    snapshots: str = "visible"
    partitions: bool = False
    sector_size: int = 512
    lock: str = "exclusive"
    cache: str = "none"
    direct_io: bool = False
    trim: bool = True
    quiet: bool = False
    manage: bool = False
    remove_snapshots: bool = False
    data_path: str | None = None
    data_pool: str | None = None
    object_size: int | None = None
    connect_timeout_s: float = 30.0
    timeout_s: float | None = None
    abort_on_full: bool = False
    metrics: str | None = None
    metrics_images: bool = False
    foreground: bool = False
    debug: bool = False
    log_level: str = "info"
    log_file: Path | None = None

    def record(self) -> dict[str, Any]:
        """Return the options fit for JSON, for from_record()."""
        log_file = None if self.log_file is None else str(self.log_file)
        return asdict(self) | {"ceph": self.ceph.record(), "log_file": log_file}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> MountOptions:
        """Return what record() has written, in this version or another one."""
        known = known_fields(cls, record)
        log_file = known.get("log_file")
        # Before it was told which were asked for, all of them held.
        dictated = known.get("dictated", OWNERSHIP)
        return cls(
            **known
            | {
                "source": Source.from_record(record["source"]),
                "ceph": CephSettings.from_record(record["ceph"]),
                "log_file": None if log_file is None else Path(log_file),
                "dictated": tuple(dictated),
                "flags": tuple(known.get("flags", ())),
            }
        )

    @property
    def level(self) -> str:
        """The least that is logged, as log_level."""
        return "debug" if self.debug else self.log_level

    @property
    def exclusive(self) -> bool:
        """Whether a writing client keeps the image to itself."""
        return self.lock != "auto"

    @property
    def volatile(self) -> bool:
        """Whether librbd may keep acknowledged writes in memory, as far as the options say."""
        return self.cache in ("writeback", "unsafe")

    @property
    def ceph_settings(self) -> CephSettings:
        """How to reach the cluster, with what the mount itself dictates as the last word."""
        pairs = [*self.ceph.pairs, *CACHE_SETTINGS[self.cache]]
        if self.timeout_s is not None:
            # librados answers with ETIMEDOUT then, and the image has failed: see Image.check(). It
            # takes whole seconds alone, and 0 for none at all.
            pairs.append(("rados_osd_op_timeout", f"{math.ceil(self.timeout_s)}"))
        return replace(self.ceph, pairs=tuple(pairs), full_try=self.abort_on_full)
