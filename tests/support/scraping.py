"""What a mount tells whoever scrapes it, and work whose traces are known."""

from __future__ import annotations

import contextlib
import errno
import functools
import mmap
import os
import re
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.images import MIB
from tests.support.mounts import TIMEOUT_S, opened

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.mounts import Mount

ANY_PORT = "127.0.0.1:0"
BLOCK = 4096


class Scrape(dict[tuple[str, frozenset[tuple[str, str]]], float]):
    """Values by name and labels."""

    @classmethod
    def of(cls, text: str) -> Scrape:
        scrape = cls()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                scrape[sample.name, frozenset(sample.labels.items())] = sample.value
        return scrape

    def value(self, name: str, **labels: str) -> float:
        """The sum of what has these labels, among others."""
        return sum(
            value
            for (each, have), value in self.items()
            if each == name and have >= set(labels.items())
        )


def connected(mount: Mount, *, unix: bool = False) -> socket.socket:
    """A connection to where a mount answers whoever scrapes it."""
    if unix:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(TIMEOUT_S)
        sock.connect(str(socket_path(mount)))
        return sock
    host, _, port = listening_at(mount.pid).rpartition(":")
    return socket.create_connection((host, int(port)), timeout=TIMEOUT_S)


@functools.cache
def listening_at(pid: int) -> str:
    """Where a keeper listens. It is asked for once: a fork of whoever has a file open closes it."""
    command = subprocess.run(
        ["ss", "-Hltnp"], capture_output=True, text=True, check=True, timeout=TIMEOUT_S
    )
    (address,) = {line.split()[3] for line in command.stdout.splitlines() if f"pid={pid}," in line}
    return address


def socket_path(mount: Mount) -> Path:
    return mount.path.with_name("metrics.sock")


def received(sock: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(1 << 20):
            data += part
    return data


def scraped(mount: Mount, *, unix: bool = False) -> Scrape:
    """What a mount answers."""
    return Scrape.of(scraped_text(mount, unix=unix))


def scraped_text(mount: Mount, *, unix: bool = False) -> str:
    """The same, as it stands there."""
    with connected(mount, unix=unix) as sock:
        sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        head, _, body = received(sock).partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1\.[01] 200 OK\r\n", head), head
    return body.decode()


def work(mount: Mount, image: str) -> None:
    """Five reads, three writes and an fsync past the page cache; a hole; a write past the end."""
    with opened(mount.file(image), os.O_RDWR | os.O_DIRECT) as file:
        block = mmap.mmap(-1, BLOCK)
        for i in range(5):
            assert os.preadv(file, [block], i * BLOCK) == BLOCK
        for i in range(3):
            assert os.pwritev(file, [block], i * BLOCK) == BLOCK
        with pytest.raises(OSError, match=r".") as caught:
            os.pwritev(file, [block], MIB)
        assert caught.value.errno == errno.ENOSPC
        os.fsync(file)
