"""Owner and mode of an image's file, as chown and chmod have asked for them.

They are image-meta of the image, and so hold on every mount; whoever may write to the pool can set
them, to anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

UID, GID, MODE = "rbdfs.uid", "rbdfs.gid", "rbdfs.mode"
OWNERSHIP_KEYS = (UID, GID, MODE)
"""The keys of image-meta: two decimal numbers, and an octal one."""

MODE_BITS = 0o777
"""What can be kept of a mode. A mount is nosuid, and nothing there is a directory or program."""

# Of 2^32 - 1 chown(2) makes "as it is".
_ID_LIMIT = 2**32 - 1
_ID = re.compile(r"\d{1,10}", re.ASCII)
_MODE = re.compile(r"0?[0-7]{3}")


@dataclass(frozen=True, slots=True)
class Ownership:
    """What was asked for; None is what nobody has asked for, and the mount decides."""

    uid: int | None = None
    gid: int | None = None
    mode: int | None = None

    def image_meta(self) -> dict[str, str]:
        """Return the image-meta that says so."""
        meta = {UID: self.uid, GID: self.gid}
        texts = {key: str(number) for key, number in meta.items() if number is not None}
        return texts if self.mode is None else texts | {MODE: f"{self.mode:04o}"}


NOT_ASKED_FOR = Ownership()


def ownership_in(meta: Mapping[str, str]) -> Ownership:
    """Return what *meta*, image-meta by key, asks for; what makes no sense there does not count."""
    if not meta:
        return NOT_ASKED_FOR
    mode = meta.get(MODE, "")
    return Ownership(
        _id(meta.get(UID, "")),
        _id(meta.get(GID, "")),
        int(mode, 8) if _MODE.fullmatch(mode) else None,
    )


def _id(text: str) -> int | None:
    if not _ID.fullmatch(text) or int(text) >= _ID_LIMIT:
        return None
    return int(text)
