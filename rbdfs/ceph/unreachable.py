"""Why a client of librados cannot reach its cluster: what it was given, and what of that is amiss.

librados tells most of this to its log alone, and gives one errno for all of it. What is looked at
here is what it has looked at, in its order; no value of a key is told.
"""

from __future__ import annotations

import configparser
import os
import re
import socket
from typing import TYPE_CHECKING

from rbdfs.ceph.key_types import key_in, keyrings

if TYPE_CHECKING:
    import rados

    from rbdfs.config.ceph_settings import CephSettings

# A host as `mon host` names it: not an address, nor what is in brackets, a list of such.
_HOST = re.compile(r"(?:v[12]:)?([A-Za-z](?:[\w.-]*\w)?)(?::\d+)?(?:/\d+)?")
_SECTION = re.compile(r"\s*\[mon\.")


def why_unreadable(path: str) -> str | None:
    """Return why a file cannot be read, None where it can."""
    try:
        with open(path, encoding="utf-8", errors="replace"):
            return None
    except OSError as exc:
        return exc.strerror


def missing_monitors(client: rados.Rados, settings: CephSettings) -> str | None:
    """Return what is wrong where *client* was told of no monitor."""
    paths = _configuration_files(settings)
    if client.conf_get("mon_host") or any(map(_has_monitors, paths)):
        return None
    tried = (_without(path) for path in paths)
    where = "-m HOST, or `mon host` in a configuration file"
    return f"no monitor address ({where}): {'; '.join(tried)}"


def unresolved_monitor(client: rados.Rados, settings: CephSettings) -> str | None:
    """Return what is wrong where a monitor of *client* has a name without an address; blocks."""
    for word in _monitors(client):
        host = _HOST.fullmatch(word)
        if host is None:
            continue
        try:
            socket.getaddrinfo(host[1], None)
        except (OSError, UnicodeError):
            return f"cannot resolve {host[1]}, a monitor of {_origin(settings)}"
    return None


def missing_key(client: rados.Rados, user: str) -> str | None:
    """Return what is wrong where *client* has no key of *user*."""
    if client.conf_get("key"):
        return None
    if path := client.conf_get("keyfile"):
        reason = why_unreadable(path)
        return None if reason is None else f"no key for client.{user}: {path!a}: {reason}"
    paths = keyrings(client)
    for path in paths:
        # librados takes none of those that follow.
        if why_unreadable(path) is None:
            return None if _has_key(path, user) else f"no key for client.{user}: {path!a} has none"
    tried = (f"{path!a}: {why_unreadable(path)}" for path in paths)
    return f"no key for client.{user}: {'; '.join(tried)}"


def tried_monitors(client: rados.Rados, settings: CephSettings) -> str:
    """Return which monitors *client* asks, and who has named them."""
    named = _monitors(client)
    which = f"monitors {' '.join(named)}" if named else "the monitors"
    return f"tried {which} of {_origin(settings)}"


def _monitors(client: rados.Rados) -> list[str]:
    return [word for word in re.split(r"[;,\s]+(?![^\[]*\])", client.conf_get("mon_host")) if word]


def _origin(settings: CephSettings) -> str:
    """Return who has named the monitors."""
    if any(key.replace(" ", "_") == "mon_host" for key, _ in settings.pairs):
        return "-m"
    for path in _configuration_files(settings):
        if why_unreadable(path) is None:
            return f"{path!a}"
    return "Ceph's defaults"


def _configuration_files(settings: CephSettings) -> list[str]:
    """Return the paths of which librados reads the first that it can open."""
    if settings.conf is not None:
        return [str(settings.conf)]
    if named := os.environ.get("CEPH_CONF"):
        return [path for path in re.split("[;,]", named) if path]
    # CEPH_CONF_FILE_DEFAULT of common/config.cc; a daemon is in /, which the last is relative to.
    name = f"{settings.cluster or 'ceph'}.conf"
    home = os.environ.get("HOME", "")
    return [f"/etc/ceph/{name}", f"{home}/.ceph/{name}", os.path.join(os.getcwd(), name)]


def _has_monitors(path: str) -> bool:
    """Tell whether a configuration file has a section of a monitor, as before `mon host`."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return any(_SECTION.match(line) for line in file)
    except OSError:
        return False


def _without(path: str) -> str:
    reason = why_unreadable(path)
    return f"{path!a} has none" if reason is None else f"{path!a}: {reason}"


def _has_key(path: str, user: str) -> bool:
    """Tell whether a keyring has a key of *user*; one that cannot be understood may have it."""
    try:
        return bool(key_in(path, user))
    except (OSError, UnicodeDecodeError, configparser.Error):
        return True
