"""Callbacks of a native client, where no Trio is there to call them."""

from __future__ import annotations

import os
import select
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rbdfs.datapath.native import Client


@contextmanager
def called_back(client: Client) -> Iterator[None]:
    """Have a thread call them, as Debian's librbd does, for the time of the context."""
    stop = os.eventfd(0)

    def run() -> None:
        ends: list[Any] = [client, stop]
        while stop not in select.select(ends, [], [])[0]:
            client.run_callbacks()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        os.eventfd_write(stop, 1)
        thread.join()
        os.close(stop)
