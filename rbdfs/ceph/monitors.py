"""What the monitors are asked: how much pools store and have room for, and who is fenced."""

from __future__ import annotations

import contextlib
import errno
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rbdfs.ceph.errors import from_ceph
from rbdfs.errors import NotUnderstood, failure
from rbdfs.model.printable import first_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import rados

# How long a fenced client stays fenced: Ceph's own default.
_FENCE_S = 3600
# Health checks of what keeps requests waiting, the likeliest first, and whether they name pools.
_TROUBLES = {
    "POOL_FULL": True,
    "OSD_FULL": False,
    "OSD_DOWN": False,
    "PG_AVAILABILITY": False,
    "SLOW_OPS": False,
}
# How many of their lines are told.
_TOLD = 3


@dataclass(frozen=True, slots=True)
class PoolUsage:
    """Bytes as a user of the pool counts them: replication and coding are taken into account."""

    used: int
    available: int


def usages(client: rados.Rados) -> dict[int, PoolUsage]:
    """Return the usage of the pools by their ids, as ``ceph df`` has it; blocks. Raises OSError.

    A pool is missing until somebody has reported on it.
    """
    answer = _ask(client, "asking for the usage of the pools", prefix="df", detail="detail")
    with _understanding("usage of the pools"):
        return {int(pool["id"]): _decode(pool["stats"]) for pool in json.loads(answer)["pools"]}


def room(client: rados.Rados) -> int:
    """Return how many bytes fit in the cluster, before replication; blocks. Raises OSError."""
    with from_ceph("asking for the usage of the cluster"):
        return int(client.get_cluster_stats()["kb_avail"]) * 1024


def blocklist(client: rados.Rados) -> set[str]:
    """Return the addresses that are blocklisted now; blocks. Raises OSError."""
    answer = _ask(client, "asking for the blocklist", prefix="osd blocklist ls")
    with _understanding("blocklist"):
        # A second list, of address ranges, may follow: the whole is not JSON.
        clients, _ = json.JSONDecoder().raw_decode(answer.decode())
        addresses = {client["addr"] for client in clients}
        if not all(isinstance(address, str) for address in addresses):
            raise TypeError("an address that is no text")
        return addresses


def trouble(client: rados.Rados, pool: str) -> str | None:
    """Return why requests to *pool* may wait, in a few words, as far as the monitors know.

    None where they know of nothing. Blocks. Raises OSError.
    """
    action = "asking for the health of the cluster"
    answer = _ask(client, action, prefix="health", detail="detail")
    with _understanding("health of the cluster"):
        checks = json.loads(answer)["checks"]
        for name, own in _TROUBLES.items():
            if name not in checks:
                continue
            texts = [str(detail["message"]) for detail in checks[name].get("detail", [])]
            if own:
                texts = [text for text in texts if f"'{pool}'" in text]
            elif not texts:
                texts = [str(checks[name]["summary"]["message"])]
            if texts:
                return first_of(texts, _TOLD, "; ")
    return None


@contextlib.contextmanager
def _understanding(what: str) -> Iterator[None]:
    """Raise NotUnderstood for JSON that is not of the form that is looked for."""
    try:
        yield
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as exc:
        raise NotUnderstood(f"{what}: {type(exc).__name__}: {exc}") from exc


def fence(client: rados.Rados, address: str) -> None:
    """Blocklist the client at *address*; on return nothing that it sent can take effect.

    Blocks. Raises OSError; profile rbd permits it.
    """
    with from_ceph(f"fencing {address}"):
        client.blocklist_add(address, _FENCE_S)
        client.wait_for_latest_osdmap()


def may_fence(client: rados.Rados) -> bool:
    """Tell whether *client* may blocklist others; blocks. Raises OSError.

    The address is none, so nothing is fenced: monitors look at permissions first, and refuse
    what they cannot parse with EINVAL. It has the form that profile rbd allows.
    """
    command = {"prefix": "osd blocklist", "blocklistop": "add", "addr": "nobody/0"}
    with from_ceph("trying to fence nobody"):
        code, _, _ = client.mon_command(json.dumps(command), b"")
    return code not in (-errno.EACCES, -errno.EPERM)


def _ask(client: rados.Rados, action: str, **command: str) -> bytes:
    with from_ceph(action):
        code, answer, message = client.mon_command(json.dumps(command | {"format": "json"}), b"")
    if code:
        raise failure(code, f"{action}: {message}")
    return bytes(answer)


def _decode(stats: dict[str, Any]) -> PoolUsage:
    used, available = int(stats["stored"]), int(stats["max_avail"])
    # What a quota does not allow waits for space just as what does not fit. 0 is no quota.
    if stats["quota_bytes"]:
        available = min(available, max(0, int(stats["quota_bytes"]) - used))
    if stats["quota_objects"] and stats["objects"] >= stats["quota_objects"]:
        available = 0
    return PoolUsage(used, available)
