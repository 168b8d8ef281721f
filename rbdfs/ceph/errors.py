"""The storage edge: exceptions of rados and rbd become OSError here."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

import rados
import rbd

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def from_ceph(action: str) -> Iterator[None]:
    """Raise rados and rbd errors as OSError, whose subclasses they are not.

    *action* begins the message: what was asked of which image, with ``off~len``.
    An error without an errno (the binding's own argument checks) becomes EIO.
    """
    try:
        yield
    except (rados.Error, rbd.Error) as exc:
        code = getattr(exc, "errno", None) or errno.EIO
        raise OSError(abs(code), f"{action}: {exc}") from exc
