"""The estate: all that one server process leaves to the next, as one schema with a version.

The keeper holds it and never looks inside: servers tell it what to remember, and it gives the
whole to the next one. So a server may leave a new kind of record with a keeper that is older:

    KeeperLink.remember(kind, number, record)   # tells the keeper; Estate.remember() keeps it
    KeeperLink.forget(kind, number)
    Estate.of_kind(kind) -> {number: record}    # what the next server finds

Whoever serves calls neither, but the methods of files.keeping.Keeping, one for each thing that
happens: opened(), begun(), moving() ... A record is what a record() method has written, fit for
JSON, and a from_record() method reads: with a default for each field that an older server did not
write, and without looking at those that only a newer one knows (model.record.known_fields).

To leave something new: a member of Kind, a method of Keeping, and a fixture of the record in
tests/keeper/records/, which hold the next version to this one's records.
"""

from __future__ import annotations

import enum
import fcntl
import os
from dataclasses import dataclass, field
from typing import Any

from rbdfs.config.mount_options import MountOptions
from rbdfs.keeper import version_1
from rbdfs.keeper.messages import VERSION
from rbdfs.kernel.mount import Mount
from rbdfs.model import meters_layout

# As native.LEDGER_BYTES, of which the keeper knows nothing.
LEDGER_BYTES = 4096


class Kind(enum.StrEnum):
    """Kinds of records, and what their numbers are."""

    FILE = "file"
    """An open file, by file handle: files.keeping.OpenFile."""
    LENGTH = "length"
    """How long a file that grows has grown, by file handle; written as often as it grows."""
    DIRECTORY = "directory"
    """An open directory, by file handle; those of files are other numbers."""
    MOVE = "move"
    """The move of an image to another pool that was begun, by the number of moves.Move."""
    REQUEST = "request"
    """A request that must not run twice and was begun, by the kernel's number of it (unique)."""
    LOCK = "lock"
    """The exclusive lock of an image, by any number: files.locks."""
    GIVEN_UP = "given_up"
    """The clients whose locks may be given up, for their server has made way, by 0."""
    ROOT = "root"
    """The entry that is mounted, by 0: it may have been renamed since."""


@dataclass(slots=True)
class Estate:
    """What a server finds.

    Attributes:
        options: what the mount was asked for, with absolute paths.
        fuse: the kernel's descriptor; None before the mount.
        ledger: memory in which servers count what the kernel sends again to each of them; None from
            a keeper that has none.
        meters: memory in which servers count what they do (model.meters); None from a keeper that
            has none.
        listener: where who scrapes the metrics connects; None where nobody is to.
        mount: which mount it is of; None before the mount, and from a keeper that does not know.
        init: how the kernel introduced itself to the first server: its INIT request.
        addresses: the Ceph clients of the last server.
        fenced: the clients that servers of this mount have fenced last: no other client did.
        records: what else was left, by kind and number; of_kind() tells of one kind.
        crashed: whether requests of the last server may be on their way; if not, it has closed
            everything.
        killed: whether the last server that has served was killed by somebody, and so did not die
            of a request. A keeper that does not know has it so: then it takes more servers to
            suspect one.
        sealed: while a server makes way for the next one: what it closes is still open for the
            kernel, so nothing is forgotten. Not part of the record.
    """

    options: MountOptions
    fuse: int | None = None
    ledger: int | None = None
    meters: int | None = None
    listener: int | None = None
    mount: Mount | None = None
    init: bytes = b""
    addresses: list[str] = field(default_factory=list)
    fenced: list[str] = field(default_factory=list)
    records: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    crashed: bool = False
    killed: bool = False
    sealed: bool = False

    def learn(self, addresses: list[str] | None = None, fenced: list[str] | None = None) -> None:
        """Take in what the clients of the server are now, or whom it fences."""
        if addresses is not None and not self.sealed:
            self.addresses = addresses
        if fenced is not None:
            self.fenced = fenced

    def remember(self, kind: str, number: int, record: dict[str, Any]) -> None:
        """Take in a new record, or what an old one is now."""
        if not self.sealed:
            self.records.setdefault(kind, {})[number] = record

    def forget(self, kind: str, number: int) -> None:
        """Drop a record; it is no error where there is none."""
        if not self.sealed:
            self.records.get(kind, {}).pop(number, None)

    def of_kind(self, kind: Kind) -> dict[int, dict[str, Any]]:
        """Return the records of *kind* by number, in the order in which they were left."""
        return self.records.get(kind, {})

    def record(self) -> dict[str, Any]:
        """Return the estate fit for JSON, for from_record()."""
        return {
            "version": VERSION,
            "options": self.options.record(),
            "fuse": self.fuse,
            "ledger": self.ledger,
            "meters": self.meters,
            "listener": self.listener,
            "mount": None if self.mount is None else self.mount.record(),
            "init": self.init.hex(),
            "addresses": self.addresses,
            "fenced": self.fenced,
            # JSON has no numbers as keys.
            "records": {kind: list(of.items()) for kind, of in self.records.items()},
            "crashed": self.crashed,
            "killed": self.killed,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Estate:
        """Return what record() of this version, of an older or of a newer one has written.

        Raises UserError where the options of a version 1 record make no sense.
        """
        if "version" not in record:
            record = version_1.upgraded(record)
        return cls(
            options=MountOptions.from_record(record["options"]),
            fuse=record["fuse"],
            ledger=record.get("ledger"),
            meters=record.get("meters"),
            listener=record.get("listener"),
            mount=None if record.get("mount") is None else Mount.from_record(record["mount"]),
            init=bytes.fromhex(record["init"]),
            addresses=record["addresses"],
            fenced=record["fenced"],
            records={kind: dict(of) for kind, of in record["records"].items()},
            crashed=record["crashed"],
            killed=record.get("killed", True),
        )


def new_ledger() -> int:
    """Return memory for Estate.ledger, by a descriptor that its servers inherit."""
    ledger = os.memfd_create("rbdfs-ledger")
    os.ftruncate(ledger, LEDGER_BYTES)
    return ledger


def new_meters() -> int:
    """Return memory for Estate.meters, likewise; raise OSError.

    Its length is for ever: who has it mapped would die of an access to what was cut off.
    """
    memory = os.memfd_create("rbdfs-meters", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, meters_layout.BYTES)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    os.pwrite(memory, meters_layout.empty(), 0)
    # Whoever is given it by the keeper to read cannot open it anew to write.
    os.fchmod(memory, 0o400)
    return memory
