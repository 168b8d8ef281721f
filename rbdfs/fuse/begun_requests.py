"""Requests that must not run twice, though the kernel sends them again to a new server.

After a crash the kernel repeats what the dead server had read and not answered, with bit 63 in the
number of the request (FUSE_UNIQUE_RESEND). The dead one may have carried it out: then a second run
would tell the caller of a failure that was a success (EEXIST, ENOENT), or open a file a second
time that nobody ever closes. So the keeper is told of such a request before it changes anything.
"""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rbdfs.model.entry import Entry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rbdfs.files.data_path import DataPath
    from rbdfs.files.keeping import Keeping
    from rbdfs.model.entry import Key

# Opcodes of linux/fuse.h.
LOOKUP, GETATTR, STATFS, GETXATTR, LISTXATTR, READDIRPLUS = 1, 3, 17, 22, 23, 44
LINK, OPEN, OPENDIR, CREATE = 13, 14, 27, 35
MKDIR, UNLINK, RMDIR, RENAME, RENAME2 = 9, 10, 11, 12, 45

_RESENT = 1 << 63
# The answer to the kernel leaves the process a little after the operation has returned.
_REMEMBERED = 64


def unmarked(unique: int) -> int:
    """Return the kernel's number of a request without the mark of one that is sent again."""
    return unique & ~_RESENT


@dataclass(slots=True)
class BegunRequest:
    """One request, for the operation that carries it out.

    Attributes:
        number: the kernel's number of it, without the mark of one that is sent again; 0 where
            there is no keeper, and so no server that could be the next.
        left: what begin() was told by a server that is gone; None where that one had not begun to
            change anything, or where there was none.
    """

    number: int
    left: dict[str, Any] | None
    _keeping: Keeping
    _client: str = ""
    _begun: bool = False

    def begin(self, entry: Entry | None = None, replaced: Entry | None = None) -> None:
        """Have the keeper remember the request, before anything is changed.

        *entry* is what is removed or renamed: after a crash, whatever else has its name by then
        is left alone. *replaced* is what has to make room for it, and is remembered until the end.
        """
        if self.number:
            self._begun = True
            told = {"entry": entry, "replaced": replaced or self.replaced}
            record: dict[str, Any] = {name: each.record() for name, each in told.items() if each}
            if self._client:
                record["client"] = self._client
            self._keeping.begun(self.number, record)

    @property
    def client(self) -> str | None:
        """The number of the client of the server that had begun; None where nobody knows."""
        return None if self.left is None else self.left.get("client")

    @property
    def entry(self) -> Entry | None:
        """What a server that is gone had begun to remove or rename."""
        return self._left("entry")

    @property
    def replaced(self) -> Entry | None:
        """What a server that is gone had begun to replace."""
        return self._left("replaced")

    def _left(self, name: str) -> Entry | None:
        record = None if self.left is None else self.left.get(name)
        return None if record is None else Entry.from_record(record)

    @property
    def begun(self) -> bool:
        """Whether somebody has told the keeper of it."""
        return self._begun or self.left is not None

    def was_of(self, key: Key) -> bool:
        """Tell whether it was begun for what has *key*; True for one that was not begun."""
        entry = self.entry
        return entry is None or entry.key == key


class BegunRequests:
    """The requests of one mount that must not run twice; *left* are those of the last server.

    *client* is the number of the client of this one.
    """

    def __init__(
        self,
        data_path: DataPath,
        keeping: Keeping,
        left: Mapping[int, dict[str, Any]],
        client: str = "",
    ) -> None:
        self._client = client
        self._data_path = data_path
        self._keeping = keeping
        self._left = dict(left)
        # Of those that were answered the oldest is forgotten for a new one.
        self._answered: deque[int] = deque()

    def constant(
        self, opcode: int, inode: int = 0, pid: int = 0
    ) -> contextlib.AbstractContextManager[None]:
        """Carry out a request that changes nothing, while somebody waits for it.

        It is found by what is known of it, see datapath/src/callers.h. Raises Interrupted.
        """
        return self._data_path.interruptible(self._data_path.take_request(opcode, inode, pid))

    @contextlib.contextmanager
    def request(self, inode: int, pid: int, *opcodes: int) -> Iterator[BegunRequest]:
        """Yield the request of thread *pid* that is being carried out: one of *opcodes*."""
        numbers = (self._data_path.take_request(opcode, inode, pid) for opcode in opcodes)
        number = next(filter(None, numbers), 0)
        left = self._left.pop(unmarked(number), None) if number & _RESENT else None
        request = BegunRequest(unmarked(number), left, self._keeping, self._client)
        try:
            with self._data_path.interruptible(number):
                yield request
        finally:
            if request.begun:
                self._answered.append(request.number)
            while len(self._answered) > _REMEMBERED:
                self._keeping.answered(self._answered.popleft())

    def forget_left(self) -> None:
        """Forget what the last server has left and the kernel has not sent again by now.

        Its caller has gone; or it was answered just before that server ended.
        """
        for number in self._left:
            self._keeping.answered(number)
        self._left.clear()
