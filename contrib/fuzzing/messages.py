"""What keeper, server and commands say to each other, and what is left in the runtime directory.

An input: a byte for who says it, and the packet.
"""

from __future__ import annotations

import contextlib
from typing import Any

from fuzzing.parts import Parts
from rbdfs.config.mount_options import MountOptions
from rbdfs.errors import UserError
from rbdfs.keeper.command_client import parsed_answer
from rbdfs.keeper.estate import Estate
from rbdfs.keeper.messages import VERSION, Listener, decoded, encoded
from rbdfs.keeper.remains import parsed_remains
from rbdfs.model.record import ignore


def _message(packet: bytes) -> None:
    try:
        message = decoded(packet)
    except ValueError:
        return
    for version in (1, VERSION):
        again = decoded(encoded(message, version))
        # nan is not itself.
        assert repr(again) == repr(message)
    _hear(message)


def _hear(message: dict[str, Any]) -> None:
    """An event without a function and a field without a parameter are ignored."""
    heard: list[dict[str, Any]] = []
    listener = Listener(
        ready=lambda init="": heard.append({"init": init}),
        status=lambda **status: heard.append(status),
        remember=lambda kind="", number=0, record=None: heard.append({"kind": kind}),
    )
    name, fields = message.get("event"), message.keys() - {"event"}
    listener.hear(message)
    ignore.cache_clear()
    assert len(heard) == (name in ("ready", "status", "remember"))
    if name == "status":
        assert heard[0].keys() == fields


def _estate(packet: bytes) -> None:
    """What a server tells the keeper to remember reaches the next one."""
    try:
        message = decoded(packet)
    except ValueError:
        return
    estate = Estate(MountOptions())
    kind, number = str(message.get("kind")), message.get("number")
    if not isinstance(number, int):
        return
    estate.remember(kind, number, message)
    state = decoded(encoded(estate.record())) | {"version": VERSION}
    again = Estate.from_record(state)
    assert repr(again.records[kind][int(number)]) == repr(message)
    estate.forget(kind, number)
    assert not estate.records[kind]


def _answer(packet: bytes) -> None:
    with contextlib.suppress(UserError):
        answer = parsed_answer("/mnt", packet)
        if "error" not in answer:
            assert isinstance(answer["keeper"], int)


def _remains(packet: bytes) -> None:
    mountpoint, addresses = parsed_remains(packet)
    assert mountpoint is None or isinstance(mountpoint, str)
    assert all(isinstance(address, str) for address in addresses)


_KINDS = (_message, _estate, _answer, _remains)


def check(data: bytes) -> None:
    parts = Parts(data)
    _KINDS[parts.number() % len(_KINDS)](parts.rest())
