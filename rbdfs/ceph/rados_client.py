"""A client of librados: how it is configured and connected, and what is wrong where that fails."""

from __future__ import annotations

import errno
import math
from typing import TYPE_CHECKING

import rados

from rbdfs.ceph.key_types import foreign_key_type
from rbdfs.ceph.unreachable import (
    missing_key,
    missing_monitors,
    tried_monitors,
    unresolved_monitor,
    why_unreadable,
)
from rbdfs.config.option_words import names
from rbdfs.config.suggestions import did_you_mean
from rbdfs.errors import EXIT_USAGE, ClusterAway, UserError

if TYPE_CHECKING:
    from rbdfs.config.ceph_settings import CephSettings


def user_of(settings: CephSettings) -> str:
    """Return the id of the client without ``client.``."""
    return settings.user or "admin"


def configured(settings: CephSettings, timeout_s: float) -> rados.Rados:
    """Return an unconnected client, configured in the order of QEMU's driver.

    Raises UserError.
    """
    try:
        client = rados.Rados(rados_id=user_of(settings), clustername=settings.cluster or "")
    except rados.Error as exc:
        raise UserError(f"bad client id {settings.user!a}: {exc}") from exc
    try:
        client.conf_read_file(None if settings.conf is None else str(settings.conf))
    except rados.Error as exc:
        if settings.conf is not None:
            reason = why_unreadable(str(settings.conf)) or exc
            raise UserError(
                f"cannot read configuration file {str(settings.conf)!a}: {reason}"
            ) from exc
    # Before the user's own settings, which may say otherwise. Ceph's default is 300 s.
    client.conf_set("client_mount_timeout", str(math.ceil(timeout_s)))
    for key, value in settings.configuration:
        try:
            client.conf_set(key, value)
        except rados.Error as exc:
            raise UserError(_refusal(client, key), EXIT_USAGE) from exc
    return client


def _refusal(client: rados.Rados, key: str) -> str:
    """Return what is wrong with a setting that Ceph has refused. Its value may be a key."""
    if client.conf_get(key) is None:
        return f"unknown option {key}, of Ceph neither{did_you_mean(key, names())}"
    return f"Ceph does not take the value of {key}"


def connect(client: rados.Rados, settings: CephSettings, timeout_s: float) -> None:
    """Connect; raise UserError, saying in one line what is wrong.

    *timeout_s* is what configured() was told.
    """
    try:
        client.connect()
    except rados.TimedOut as exc:
        raise ClusterAway(no_answer(client, settings, timeout_s)) from exc
    except rados.Error as exc:
        raise UserError(_why(client, settings, exc)) from exc


def no_answer(client: rados.Rados, settings: CephSettings, timeout_s: float) -> str:
    """Return what there is to say where a configured client reaches no monitor in *timeout_s*."""
    tried = tried_monitors(client, settings)
    return f"the cluster did not answer within {timeout_s:g} s: {tried}"


def _why(client: rados.Rados, settings: CephSettings, exc: rados.Error) -> str:
    # Of all of these librados may say that there is no such object. Since version 20 that is also
    # what it says to a key that it does not understand.
    amiss = (
        _foreign_key(client, settings)
        or missing_monitors(client, settings)
        or unresolved_monitor(client, settings)
        or missing_key(client, user_of(settings))
    )
    if amiss:
        return amiss
    user = f"client.{user_of(settings)}"
    if isinstance(exc, rados.PermissionDeniedError | rados.PermissionError):
        return f"permission denied for {user}: unknown user, or wrong key"
    if getattr(exc, "errno", None) == errno.EIO:
        return f"authentication of {user} failed: wrong key?"
    return f"cannot connect as {user}: {_reason(exc)}"


def _foreign_key(client: rados.Rados, settings: CephSettings) -> str:
    """Return what is wrong where it is the type of the key, or ""."""
    kind = foreign_key_type(client, user_of(settings))
    if kind is None:
        return ""
    return (
        f"the key of client.{user_of(settings)} is of a type that this librados does not know"
        f" ({kind or 'a newer one'}): it takes a newer librados, or a key of type aes"
    )


def _reason(exc: rados.Error) -> str:
    """Return the text of *exc* without values of settings, which may be keys."""
    code = getattr(exc, "errno", None)
    return errno.errorcode.get(abs(code), str(code)) if code else type(exc).__name__
