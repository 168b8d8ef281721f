"""The values that options take, out of their texts; each raises ValueError for any other text."""

from __future__ import annotations

import grp
import math
import os
import pwd
from pathlib import Path

SOCKET_PATH_BYTES = 107
"""Of a Unix socket: what fits into struct sockaddr_un."""


def number(text: str, base: int = 10) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(text)
    value = int(text, base)
    if value >= 2**32 - 1:
        raise ValueError(text)
    return value


def user(text: str) -> int:
    """Return the number of a user, of a number or a name."""
    try:
        return number(text) if text.isdigit() else pwd.getpwnam(text).pw_uid
    except KeyError:
        raise ValueError(text) from None


def group(text: str) -> int:
    """Return the number of a group, of a number or a name."""
    try:
        return number(text) if text.isdigit() else grp.getgrnam(text).gr_gid
    except KeyError:
        raise ValueError(text) from None


def octal(text: str) -> int:
    value = number(text, 8)
    if value > 0o777:
        raise ValueError(text)
    return value


def parse_seconds(text: str) -> float:
    """Return *text* as a positive, finite number of seconds; raise ValueError otherwise."""
    # float() takes digits of other scripts, and underscores.
    if not text.isascii() or "_" in text:
        raise ValueError(text)
    seconds = float(text)
    if not math.isfinite(seconds) or not 0 < seconds <= 86400:
        raise ValueError(text)
    return seconds


def parse_size(text: str) -> int:
    """Return *text*, a number with an optional K, M, G or T, in bytes; raise ValueError."""
    factor = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}.get(text[-1:].upper(), 1)
    return number(text[:-1] if factor > 1 else text) * factor


def object_size(text: str) -> int:
    size = parse_size(text)
    # The range of librbd's orders: 4 KiB to 32 MiB.
    if size & (size - 1) or not 1 << 12 <= size <= 1 << 25:
        raise ValueError(text)
    return size


class OneOf:
    """One of some words or numbers, which are all that there are."""

    def __init__(self, *values: str | int) -> None:
        self.values = {str(value): value for value in values}

    def __call__(self, text: str) -> str | int:
        if text not in self.values:
            raise ValueError(text)
        return self.values[text]


def log_level(text: str) -> str:
    if text not in ("debug", "info", "warning", "error"):
        raise ValueError(text)
    return text


def is_path(address: str) -> bool:
    """Tell whether an address to listen at is a path."""
    return "/" in address


def listen_address(text: str) -> str:
    """Return *text*, which is ADDR:PORT, [ADDR]:PORT of IPv6, or a path; raise ValueError."""
    if is_path(text):
        if len(os.fsencode(text)) > SOCKET_PATH_BYTES or "\0" in text:
            raise ValueError(text)
        return text
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or number(port) > 65535 or (":" in host and not bracketed):
        raise ValueError(text)
    return text


def word(text: str) -> str:
    if not text:
        raise ValueError(text)
    return text


def client(text: str) -> str:
    """Return the id of a client, which may be given with its type as Ceph prints it."""
    return word(text.removeprefix("client."))


def path(text: str) -> Path:
    return Path(word(text))
