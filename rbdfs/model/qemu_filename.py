"""QEMU's ``rbd:`` file name: ``rbd:POOL/[NAMESPACE/]IMAGE[@SNAP][:KEY=VALUE...]``.

The grammar is that of qemu_rbd_parse_filename() in QEMU's block/rbd.c (6.1 and later): split at
the unescaped delimiters first, then take the backslashes out of each piece.  Names are ``str``
decoded with surrogateescape.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PREFIX = "rbd:"
_BACKSLASH = re.compile(r"\\(.)", re.DOTALL)
_IN_NAME = re.compile(r"[\\:@/]")
_IN_KEY = re.compile(r"[\\:@=]")
_IN_VALUE = re.compile(r"[\\:@]")


@dataclass(frozen=True, slots=True)
class QemuFileName:
    """A parsed ``rbd:`` file name.

    ``namespace`` is "" for the default namespace.  ``id`` is the user without ``client.``, ``conf``
    the path of the configuration file; None where the file name does not say.  ``options`` are the
    other pairs in their order, repeated keys included.
    """

    pool: str
    image: str
    namespace: str = ""
    snap: str | None = None
    id: str | None = None
    conf: str | None = None
    options: tuple[tuple[str, str], ...] = ()


def parse_qemu_filename(text: str) -> QemuFileName:
    """Parse *text* as QEMU does.

    Raises ValueError where QEMU reports an error, and for an empty pool, image or snapshot name,
    which QEMU's parser lets pass to fail when it opens the image.
    """
    if not text.startswith(_PREFIX):
        raise ValueError(f"file name must start with {_PREFIX!r}: {text!a}")
    pool, rest = _split(text.removeprefix(_PREFIX), "/")
    if rest is None:
        raise ValueError(f"a pool name is required, as in rbd:POOL/IMAGE: {text!a}")
    # QEMU looks for `@` in all that follows, options included: one in a value must be escaped.
    before_at, after_at = _split(rest, "@")
    if after_at is None:
        snap = None
        image, pairs = _split(rest, ":")
    else:
        image = before_at
        snap, pairs = _split(after_at, ":")
    namespace, below = _split(image, "/")
    if below is None:
        namespace, below = "", image
    if not pool or not below or snap == "":
        raise ValueError(f"empty pool, image or snapshot name: {text!a}")
    special, options = _parse_pairs(pairs)
    return QemuFileName(
        pool=_unescape(pool),
        image=_unescape(below),
        namespace=_unescape(namespace),
        snap=None if snap is None else _unescape(snap),
        id=special.get("id"),
        conf=special.get("conf"),
        options=options,
    )


def format_qemu_filename(name: QemuFileName) -> str:
    """Return the file name that parse_qemu_filename(), and QEMU, read as *name*.

    Raises ValueError for what cannot be written: an empty pool, image or snapshot name, NUL, and
    ``id`` or ``conf`` among the options.
    """
    if not name.pool or not name.image or name.snap == "":
        raise ValueError("empty pool, image or snapshot name")
    path = [name.pool, name.namespace, name.image] if name.namespace else [name.pool, name.image]
    text = _PREFIX + "/".join(_escape(part, _IN_NAME) for part in path)
    if name.snap is not None:
        text += "@" + _escape(name.snap, _IN_NAME)
    special = {"id": name.id, "conf": name.conf}
    pairs = [(key, value) for key, value in special.items() if value is not None]
    for key, value in name.options:
        if key in special:
            raise ValueError(f"{key!r} is not among the options but a field of its own")
        pairs.append((key, value))
    for key, value in pairs:
        text += f":{_escape(key, _IN_KEY)}={_escape(value, _IN_VALUE)}"
    if "\0" in text:
        raise ValueError("NUL in a file name")
    return text


def _parse_pairs(rest: str | None) -> tuple[dict[str, str], tuple[tuple[str, str], ...]]:
    """Return ``id`` and ``conf`` (the last of each wins), and the other pairs."""
    special: dict[str, str] = {}
    options = []
    while rest is not None:
        key, after = _split(rest, "=")
        if after is None:
            raise ValueError(f"option {key!a} has no value")
        value, rest = _split(after, ":")
        key, value = _unescape(key), _unescape(value)
        if key in ("id", "conf"):
            special[key] = value
        else:
            options.append((key, value))
    return special, tuple(options)


def _split(text: str, delimiter: str) -> tuple[str, str | None]:
    """Return what stands before and after the first unescaped *delimiter*; (text, None): none."""
    index = 0
    while index < len(text):
        if text[index] == delimiter:
            return text[:index], text[index + 1 :]
        index += 2 if text[index] == "\\" else 1
    return text, None


def _escape(text: str, special: re.Pattern[str]) -> str:
    return special.sub(r"\\\g<0>", text)


def _unescape(text: str) -> str:
    # A lone backslash at the end escapes nothing and stays, as in qemu_rbd_unescape().
    return _BACKSLASH.sub(r"\1", text)
