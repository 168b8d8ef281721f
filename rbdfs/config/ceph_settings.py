"""How to reach the cluster, and as whom."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rbdfs.config.absolute_path import absolute
from rbdfs.model.record import known_fields

# librados makes whoever submits a request wait when its client has this many under way (1024,
# 100 MiB): a stuck image would stop all others of the client, and Python's only thread with them.
# 0: no limit; the requests of each image are bounded by the data path.
UNTHROTTLED = (("objecter_inflight_ops", "0"), ("objecter_inflight_op_bytes", "0"))

# As libvirt, CloudStack and Proxmox name it, for a client; Ceph 20 knows the first no more.
_RENAMED = {"auth_supported": "auth_client_required"}

# A daemon leaves the directory that these may be relative to.
_PATHS = ("keyring", "keyfile")


@dataclass(frozen=True, slots=True)
class CephSettings:
    """What a Ceph client is configured with.

    Attributes:
        user: the client's id without ``client.``; None means admin.
        conf: configuration file; None means Ceph's default places, where it may be missing.
        cluster: name of the cluster, which Ceph puts into its default paths.
        pairs: further settings, applied in this order after the file.
        full_try: have the OSDs refuse what a full pool has no room for, where they would wait.
    """

    user: str | None = None
    conf: Path | None = None
    cluster: str | None = None
    pairs: tuple[tuple[str, str], ...] = ()
    full_try: bool = False

    @property
    def configuration(self) -> tuple[tuple[str, str], ...]:
        """What a client is configured with after the file, in this order."""
        named = ((_RENAMED.get(key, key), value) for key, value in self.pairs)
        # The user's own settings may say otherwise.
        return (*UNTHROTTLED, *named)

    def with_absolute_paths(self, directory: Path) -> CephSettings:
        """Return the settings with files of keys that are relative below *directory*."""
        pairs = (
            (key, _absolute_paths(value, directory) if key in _PATHS else value)
            for key, value in self.pairs
        )
        return replace(self, pairs=tuple(pairs))

    def unlike(self, others: CephSettings) -> list[str]:
        """Return the words for what these ask for and *others* do not have."""
        named = (("id", self.user, others.user), ("conf", self.conf, others.conf))
        words = [word for word, value, other in named if value not in (None, other)]
        return words + [pair[0] for pair in self.pairs if pair not in others.pairs]

    def record(self) -> dict[str, Any]:
        """Return the settings fit for JSON, for from_record()."""
        return asdict(self) | {"conf": None if self.conf is None else str(self.conf)}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> CephSettings:
        """Return what record() has written, in this version or another one."""
        known = known_fields(cls, record)
        conf = known["conf"]
        pairs = tuple((key, value) for key, value in known["pairs"])
        return cls(**known | {"conf": None if conf is None else Path(conf), "pairs": pairs})


def _absolute_paths(text: str, directory: Path) -> str:
    """Return a list of paths as librados takes it, each of them absolute."""
    paths = (path.strip() for path in text.split(","))
    # It is librados that knows $home, $cluster and their like.
    return ",".join(
        path if not path or path.startswith("$") else absolute(path, directory) for path in paths
    )
