"""What librbd alone tells of an image: who uses it, what it belongs to, how it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import rbd

from rbdfs.ceph.blocking_image import is_exclusive, lockers
from rbdfs.ceph.errors import from_ceph
from rbdfs.errors import NotUnderstood

if TYPE_CHECKING:
    from collections.abc import Callable

# The first bytes of a LUKS header (luks_hdr of LUKS' on-disk format): a magic, and the version as
# an integer of two bytes. librbd gives that of a clone with a format of its own another magic
# (src/librbd/crypto/luks/Magic.cc).
_LUKS = (b"LUKS\xba\xbe", b"RBDL\xba\xbe")
_LUKS_BYTES = 8
_MIRRORING = {
    rbd.RBD_MIRROR_IMAGE_DISABLING: "disabling",
    rbd.RBD_MIRROR_IMAGE_ENABLED: "enabled",
    rbd.RBD_MIRROR_IMAGE_DISABLED: "disabled",
}
_MIRROR_MODES = {
    rbd.RBD_MIRROR_IMAGE_MODE_JOURNAL: "journal",
    rbd.RBD_MIRROR_IMAGE_MODE_SNAPSHOT: "snapshot",
}


def locks(image: rbd.Image) -> list[dict[str, Any]]:
    """Return client, address, cookie, and whether it is librbd's exclusive lock; blocks."""
    return [
        {"client": client, "address": address, "cookie": cookie, "exclusive": is_exclusive(cookie)}
        for client, cookie, address in lockers(image)
    ]


def watchers(image: rbd.Image) -> list[dict[str, Any]]:
    """Return client, address and cookie of who has it open for writing; blocks."""
    return [
        {"client": f"client.{each['id']}", "address": each["addr"], "cookie": each["cookie"]}
        for each in image.watchers_list()
    ]


def group(image: rbd.Image) -> tuple[int, str]:
    """Return pool id and name of the group that the image is in, ``(-1, "")`` of none; blocks."""
    found = image.group()
    return found["pool"], found["name"]


def mirroring(image: rbd.Image) -> dict[str, Any]:
    """Return the state of mirroring; mode, primary and global_id where it is on; blocks."""
    info = image.mirror_image_get_info()
    state = _MIRRORING.get(info["state"], str(info["state"]))
    if state == "disabled":
        return {"state": state}
    mode = image.mirror_image_get_mode()
    return {
        "state": state,
        "mode": _MIRROR_MODES.get(mode, str(mode)),
        "primary": info["primary"],
        "global_id": info["global_id"],
    }


def encryption(image: rbd.Image) -> str:
    """Return ``luks1`` or ``luks2`` where the image begins with such a header, or ``none``; blocks.

    Of a snapshot that *image* is set to, as that begins.
    """
    length = min(_LUKS_BYTES, image.size())
    first = image.read(0, length) if length else b""
    if not first.startswith(_LUKS) or len(first) < _LUKS_BYTES:
        return "none"
    return f"luks{int.from_bytes(first[-2:], 'big')}"


PARTS: dict[str, Callable[[rbd.Image], Any]] = {
    "locks": locks,
    "watchers": watchers,
    "group": group,
    "mirroring": mirroring,
    "encryption": encryption,
}


def tell(
    image: rbd.Image, names: tuple[str, ...], snap_id: int = 0
) -> tuple[dict[str, Any], dict[str, OSError]]:
    """Return those PARTS of *names* that can be told, and why the others cannot; blocks.

    *image* is open read-only; it is set to snapshot *snap_id* for what follows.
    """
    told: dict[str, Any] = {}
    failed: dict[str, OSError] = {}
    for name in names:
        try:
            with from_ceph(name):
                if snap_id:
                    image.set_snap_by_id(snap_id)
                told[name] = PARTS[name](image)
        except UnicodeDecodeError:
            # The binding returns no such str.
            failed[name] = NotUnderstood(f"{name}: a name that is not UTF-8")
        except OSError as exc:
            failed[name] = exc
    return told, failed
