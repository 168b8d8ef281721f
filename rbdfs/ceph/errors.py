"""The storage edge: exceptions of rados and rbd become OSError here."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

import rados
import rbd

from rbdfs.errors import Failure, failure

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def from_ceph(action: str) -> Iterator[None]:
    """Raise errors of rados and rbd, and those of the native data path, by their names.

    Those of rados and rbd are no subclasses of OSError.

    *action* begins the message: what was asked of which image, with ``off~len``.
    An error without an errno (the binding's own argument checks) becomes EIO.
    """
    try:
        yield
    except (rados.Error, rbd.Error) as exc:
        raise failure(getattr(exc, "errno", None) or errno.EIO, f"{action}: {exc}") from exc
    except Failure:
        raise
    except OSError as exc:
        # The native data path tells an errno and what librbd call it is from.
        raise failure(exc.errno or errno.EIO, f"{action}: {exc.strerror}") from exc
