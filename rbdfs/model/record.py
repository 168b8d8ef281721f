"""Records: what one process leaves for another as JSON, which may be of another version."""

from __future__ import annotations

import functools
import logging
from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)


def known_fields(kind: type[Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of *record* the dataclass *kind* has fields for.

    A process of another version may have written more: it is ignored, and the log says so once.
    """
    names = {field.name for field in fields(kind)}
    for name in record.keys() - names:
        ignore(kind.__name__, name)
    return {name: value for name, value in record.items() if name in names}


@functools.cache
def ignore(kind: str, name: str) -> None:
    """Say, the first time, that *name* of a *kind* of record or message is not known here."""
    log.warning("ignored: %.40a of %.40a, which this version of rbdfs does not know", name, kind)
