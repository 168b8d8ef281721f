"""How to reach the cluster, and as whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class CephSettings:
    """What a Ceph client is configured with.

    Attributes:
        user: the client's id without ``client.``; None means admin.
        conf: configuration file; None means Ceph's default places, where it may be missing.
        cluster: name of the cluster, which Ceph puts into its default paths.
        pairs: further settings, applied in this order after the file.
        full_try: have the OSDs refuse what a full pool has no room for, where they would wait.
    """

    user: str | None = None
    conf: Path | None = None
    cluster: str | None = None
    pairs: tuple[tuple[str, str], ...] = ()
    full_try: bool = False
