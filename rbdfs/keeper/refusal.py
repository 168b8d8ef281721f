"""A mount without a server, of which nobody expects one any more: every request fails with EIO."""

from __future__ import annotations

import contextlib
import errno
import logging
import selectors
from typing import TYPE_CHECKING

from rbdfs.keeper.estate import Kind
from rbdfs.kernel import raw_requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from rbdfs.keeper.estate import Estate

log = logging.getLogger(__name__)


class Refusal:
    """Answers the kernel from begin() to end(), where *selector* calls it.

    *over* is called when the kernel has ended the mount.

    Attributes:
        active: whether it does that now.
    """

    def __init__(
        self, selector: selectors.BaseSelector, estate: Estate, over: Callable[[], None]
    ) -> None:
        self._selector = selector
        self._estate = estate
        self._over = over
        self.active = False

    def begin(self) -> None:
        """Refuse from now on; what the last server had read is refused first."""
        assert self._estate.fuse is not None
        self.active = True
        self._selector.register(self._estate.fuse, selectors.EVENT_READ, self._refuse)
        # An older kernel leaves those waiting that the last server had read.
        with contextlib.suppress(OSError):
            raw_requests.resend_requests(self._estate.fuse)

    def end(self) -> None:
        """Leave the kernel to a server."""
        assert self._estate.fuse is not None
        self.active = False
        self._selector.unregister(self._estate.fuse)

    def _refuse(self) -> None:
        assert self._estate.fuse is not None
        try:
            closed = raw_requests.refuse_request(self._estate.fuse)
        except OSError as exc:
            if exc.errno != errno.ENODEV:
                raise
            self._over()
        else:
            if closed is not None:
                self._estate.forget(Kind.FILE, closed)
