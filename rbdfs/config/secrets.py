"""Keys of Ceph clients that are given as arguments: kept out of ps and of messages."""

from __future__ import annotations

import ctypes
import os
import re

# `key=...` among settings, also right after -o, and `--key ...` of whoever takes this for rbd(8).
# A key is base64; whatever else stands there is none.
_KEY = re.compile(
    rb"((?<![A-Za-z0-9_.])(?:(?:-[A-Za-z]*o)?\s*key\s*=|--key[\0\s])\s*)([A-Za-z0-9+/=\\]+)"
)
# proc(5), counted from after the name of the command: where the kernel has found the arguments.
_ARG_START = 45


def redacted(text: str) -> str:
    """Return *text* with asterisks for keys."""
    data = text.encode("utf-8", "surrogateescape")
    return _KEY.sub(rb"\1***", data).decode("utf-8", "surrogateescape")


def conceal_arguments() -> None:
    """Overwrite keys in the command line of this process, in place, as mount.cifs(8) does.

    Everybody can read it in /proc. Python has made copies for itself long before. What stood
    there from the start of the interpreter until now, nobody can take back.
    """
    with open("/proc/self/cmdline", "rb") as file:
        command_line = file.read()
    for found in _KEY.finditer(command_line):
        ctypes.memset(_arguments_address() + found.start(2), ord("*"), len(found[2]))


def _arguments_address() -> int:
    with open(f"/proc/{os.getpid()}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[_ARG_START])
