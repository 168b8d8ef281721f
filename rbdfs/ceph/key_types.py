"""What kind of key a client has: one that this librados does not know is refused as a wrong one."""

from __future__ import annotations

import base64
import binascii
import configparser
import contextlib
import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rados

# CephContext's CryptoHandler, of common/ceph_crypto and auth/Crypto.h: a key begins with its type.
_AES, _AES256K = 1, 2
# A setting that came with keys of that type.
_AES256K_SETTING = "mon_auth_allow_insecure_key"


def foreign_key_type(client: rados.Rados, user: str) -> str | None:
    """Return the type of the key of *user* that *client* has; None for one that librados knows.

    "" is a type that has no name yet. What cannot be read is taken for a known one: connecting says
    what is wrong with it.
    """
    key = _key(client, user)
    with contextlib.suppress(binascii.Error, ValueError):
        kind = int.from_bytes(base64.b64decode(key, validate=True)[:2], "little")
        known = _AES if client.conf_get(_AES256K_SETTING) is None else _AES256K
        if key and kind > known:
            return "aes256k" if kind == _AES256K else ""
    return None


def _key(client: rados.Rados, user: str) -> str:
    """Return the key that librados would take, in the order in which it looks for one, or ""."""
    if key := client.conf_get("key"):
        return str(key)
    with contextlib.suppress(OSError, UnicodeDecodeError, configparser.Error):
        if path := client.conf_get("keyfile"):
            with open(path, encoding="ascii") as file:
                return file.read().strip()
        for path in keyrings(client):
            if os.path.exists(path):
                return key_in(path, user)
    return ""


def keyrings(client: rados.Rados) -> list[str]:
    """Return the paths of which librados takes the first that it can open."""
    return [path.strip() for path in re.split("[;,]", client.conf_get("keyring") or "")]


def key_in(keyring: str, user: str) -> str:
    """Return the key of *user* that a keyring file has, "" where it has none.

    Raises OSError, UnicodeDecodeError or configparser.Error where it cannot be read.
    """
    parsed = configparser.RawConfigParser(strict=False)
    with open(keyring, encoding="utf-8") as file:
        # A key's name may be indented, which would go on with the line before.
        parsed.read_string("".join(line.lstrip() for line in file))
    return parsed.get(f"client.{user}", "key", fallback="")
