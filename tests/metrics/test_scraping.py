"""A live mount is scraped: by HTTP, by a Unix socket, and by who reads the keeper's memory."""

from __future__ import annotations

import contextlib
import errno
import functools
import mmap
import os
import re
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.ceph import run
from tests.support.conditions import eventually
from tests.support.mounts import RBDFS, TIMEOUT_S, MountError, opened, opened_and_lost
from tests.support.scraping import (
    ANY_PORT,
    BLOCK,
    Scrape,
    connected,
    listening_at,
    received,
    scraped,
    work,
)
from tests.support.servers import ask, killed_server, server_of, standing_still

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

REQUESTS = "rbdfs_request_duration_seconds_count"


def printed(mount: Mount) -> Scrape:
    command = [str(RBDFS), "status", "--prometheus", str(mount.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.returncode, done.stderr) == (0, "")
    return Scrape.of(done.stdout)


def assert_counted(scrape: Scrape, times: int = 1, **labels: str) -> None:
    counts = {
        name: scrape.value(REQUESTS, operation=name, **labels)
        for name in ("read", "write", "flush")
    }
    # The one that fails is a write as well.
    assert counts == {"read": 5 * times, "write": 4 * times, "flush": times}
    for name, blocks in (("read", 5), ("write", 3)):
        transferred = scrape.value("rbdfs_request_bytes_total", operation=name, **labels)
        assert transferred == blocks * times * BLOCK
    failed = scrape.value("rbdfs_request_errors_total", operation="write", errno="ENOSPC", **labels)
    assert failed == times
    assert scrape.value("rbdfs_requests_in_flight", **labels) == 0
    took_s = scrape.value("rbdfs_request_duration_seconds_sum", operation="read", **labels)
    assert 0 < took_s < TIMEOUT_S


def test_work_is_counted(pool: str, image: str, mounting: Mounting) -> None:
    """Over both data paths."""
    with mounting(pool, f"--metrics={ANY_PORT}", "-ometrics_images") as mount:
        work(mount, image)
        labels = {"pool": pool, "namespace": "", "image": image}
        assert scraped(mount).value("rbdfs_serving", mountpoint=str(mount.path)) == 1
        assert_counted(scraped(mount), 1, **labels)
        with opened(mount.file(image), os.O_RDONLY):
            opened_one = lambda: scraped(mount).value("rbdfs_open_files") == 1  # noqa: E731
            eventually(opened_one, what="an open file")


@pytest.mark.usefixtures("native")
def test_a_discard_is_counted(pool: str, image: str, mounting: Mounting) -> None:
    with mounting(pool, f"--metrics={ANY_PORT}") as mount:
        run("fallocate", "--punch-hole", "--length", f"{BLOCK}", str(mount.file(image)))
        labels = {"pool": pool, "operation": "discard"}
        scrape = scraped(mount)
        assert scrape.value(REQUESTS, **labels) == 1
        assert scrape.value("rbdfs_request_bytes_total", **labels) == BLOCK
        assert not [have for _, have in scrape if "image" in dict(have)]


@pytest.mark.usefixtures("native")
def test_what_is_open_and_looked_up(pool: str, image: str, mounting: Mounting) -> None:
    def eventually_is(value: float, name: str, **labels: str) -> None:
        eventually(lambda: scraped(mount).value(name, **labels) == value, what=name)

    with mounting(pool, f"--metrics={ANY_PORT}", "-omanage") as mount:
        eventually_is(0, "rbdfs_open_images")
        with opened(mount.file(image), os.O_RDWR), opened(mount.file(image), os.O_RDONLY):
            eventually_is(2, "rbdfs_open_files")
            eventually_is(1, "rbdfs_open_images")
            eventually_is(1, "rbdfs_locked_images")
        eventually_is(0, "rbdfs_locked_images")
        headers = functools.partial(Scrape.value, name="rbdfs_cache_misses_total", cache="headers")
        misses = headers(scraped(mount))
        run("ls", "-l", str(mount.path))
        eventually(lambda: headers(scraped(mount)) > misses, what="a listing asks")
        assert scraped(mount).value("rbdfs_cache_hits_total", cache="names") > 0
        scrape = scraped(mount)
        assert scrape.value("rbdfs_main_thread_turn_seconds_count") > 0
        assert 0 < scrape.value("rbdfs_main_thread_turn_seconds_sum") < TIMEOUT_S
        assert scrape.value("rbdfs_failed_images") == scrape.value("rbdfs_moves_total") == 0
        mount.file("ns").mkdir()
        with opened(mount.file(image), os.O_RDONLY):
            run("mv", str(mount.file(image)), str(mount.file("ns") / image))
        eventually_is(1, "rbdfs_moves_running")
        # The source would stay for half a minute.
        mount.allow_log(r"WARNING .*: migration of .* ends it")


@pytest.mark.usefixtures("native")
def test_fenced_files_are_told_of(ceph: Ceph, pool: str, image: str, mounting: Mounting) -> None:
    with mounting(pool, f"--metrics={ANY_PORT}") as mount:
        with opened_and_lost(mount.file(image), os.O_RDWR | os.O_DIRECT) as file:
            os.pwritev(file, [mmap.mmap(-1, BLOCK)], 0)
            (watcher,) = ceph.watchers(f"{pool}/{image}")
            ceph.blocklist_add(watcher)
            try:
                failed = lambda: scraped(mount).value("rbdfs_failed_images") == 1  # noqa: E731
                eventually(failed, what="it is lost")
                with pytest.raises(OSError, match=r".") as caught:
                    os.preadv(file, [mmap.mmap(-1, BLOCK)], 0)
                assert caught.value.errno == errno.ESHUTDOWN
            finally:
                ceph.blocklist_rm(watcher)
            assert scraped(mount).value("rbdfs_request_errors_total", errno="ESHUTDOWN") > 0
        mount.allow_log("WARNING .*are lost", "WARNING .*108", "ERROR .*108", "ESHUTDOWN")


@pytest.mark.usefixtures("native")
def test_counters_do_not_fall_over_servers(pool: str, image: str, mounting: Mounting) -> None:
    restarts = "rbdfs_restarts_total"
    with mounting(pool, f"--metrics={ANY_PORT}") as mount:
        work(mount, image)
        assert_counted(scraped(mount), pool=pool)
        assert scraped(mount).value(restarts) == 0
        killed_server(mount)
        scrape = scraped(mount)
        assert_counted(scrape, pool=pool)
        assert scrape.value(restarts, reason="crash") == scrape.value(restarts) == 1
        eventually(lambda: scraped(mount).value("rbdfs_fences_total") == 2, what="two fences")
        work(mount, image)
        ask(mount, "restart")
        scrape = scraped(mount)
        assert_counted(scrape, 2, pool=pool)
        assert (scrape.value(restarts, reason="asked"), scrape.value(restarts)) == (1, 2)


@pytest.mark.usefixtures("native")
def test_who_scrapes_while_no_server_is_there_waits(pool: str, mounting: Mounting) -> None:
    with mounting(pool, f"--metrics={ANY_PORT}") as mount:
        address = listening_at(mount.pid).rpartition(":")
        server = server_of(mount)
        assert server is not None
        # So no successor starts before this has connected.
        mount.signal(19)
        os.kill(server, 9)
        with socket.create_connection((address[0], int(address[2])), timeout=TIMEOUT_S) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            mount.signal(18)
            assert received(sock).startswith(b"HTTP/1.0 200 OK")
        mount.expect_log(r"ERROR .*server 1 was killed")


@pytest.mark.usefixtures("native")
def test_while_the_cluster_does_not_answer(
    ceph: Ceph, pool: str, image: str, mounting: Mounting
) -> None:
    age, in_flight = "rbdfs_cluster_last_answer_age_seconds", "rbdfs_requests_in_flight"
    with mounting(pool, f"--metrics={ANY_PORT}") as mount:
        with opened(mount.file(image), os.O_RDONLY | os.O_DIRECT) as file:
            with standing_still(ceph, 0):
                code = f"import os, mmap; os.preadv({file}, [mmap.mmap(-1, {BLOCK})], 0)"
                reader = subprocess.Popen([sys.executable, "-c", code], pass_fds=[file])
                eventually(lambda: scraped(mount).value(in_flight) == 1, what="a read waits")
                assert printed(mount).value(in_flight) == 1
                first = scraped(mount).value(age)
                eventually(lambda: scraped(mount).value(age) > first + 1, what="it gets older")
                waiting = lambda: scraped(mount).value("rbdfs_waiting_images") == 1  # noqa: E731
                eventually(waiting, what="the image is known to wait")
            assert reader.wait(TIMEOUT_S) == 0
        mount.allow_log("WARNING .*flush: .* the cluster does not say whether it is there")
        assert scraped(mount).value(in_flight) == 0


@pytest.mark.usefixtures("native")
def test_unix_socket_and_textfile(pool: str, image: str, mounting: Mounting) -> None:
    path = mounting.mountpoint().with_name("metrics.sock")
    with mounting(pool, f"--metrics={path}") as mount:
        work(mount, image)
        assert_counted(scraped(mount, unix=True), pool=pool)
        assert_counted(printed(mount), pool=pool)
        assert ask(mount, "status")["metrics"] == str(path)
    assert not path.exists()


@pytest.mark.usefixtures("native")
def test_textfile_while_the_server_hangs(pool: str, image: str, mount: Mount) -> None:
    """And of a mount that nobody was to scrape."""
    server = server_of(mount)
    assert server is not None
    work(mount, image)
    os.kill(server, 19)
    try:
        assert_counted(printed(mount), pool=pool)
    finally:
        os.kill(server, 18)


def test_an_address_in_use_is_said_at_the_start(pool: str, mounting: Mounting) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(MountError) as caught, mounting(pool, f"--metrics={address}"):
            pass
    assert f"rbdfs: cannot listen on {address} for metrics: Address already in use\n" in str(
        caught.value
    )


@pytest.mark.parametrize("host", ["nowhere.invalid", "x" * 64, "a..b", "."])
def test_a_host_that_there_is_not(pool: str, mounting: Mounting, host: str) -> None:
    address = f"{host}:9283"
    with pytest.raises(MountError) as caught, mounting(pool, f"--metrics={address}"):
        pass
    said = str(caught.value)
    assert re.search(f"rbdfs: .*{re.escape(address)}", said)
    assert "rror" not in said.replace(MountError.__name__, "")


def test_hostile_clients(pool: str, mounting: Mounting) -> None:
    """A thousand that say nothing, garbage, requests without an end: who scrapes is answered."""
    requests: list[Callable[[socket.socket], object]] = [
        lambda sock: sock.sendall(os.urandom(4096)),
        lambda sock: sock.sendall(b"GET /" + b"x" * (1 << 20)),
        lambda sock: sock.sendall(b"GET / HTTP/1.0\r\n" + b"X: y\r\n" * 100_000),
        lambda sock: sock.sendall(b"POST / HTTP/1.0\r\nContent-Length: 1000000000\r\n\r\n12"),
        lambda sock: sock.sendall(b"GET / HTTP/1.0\r\n\r\n"),
        lambda _sock: None,
    ]
    with mounting(pool, f"--metrics={ANY_PORT}") as mount, contextlib.ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(connected(mount))
        assert scraped(mount).value("rbdfs_serving") == 1
        for request in requests:
            sock = stack.enter_context(connected(mount))
            with contextlib.suppress(ConnectionError):
                request(sock)
            assert scraped(mount).value("rbdfs_serving") == 1
        # Each has a thread, and they are few.
        assert len(os.listdir(f"/proc/{server_of(mount) or mount.pid}/task")) < 100
