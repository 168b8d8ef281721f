"""What is said at the start, and by who asks, where metrics cannot be had."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from rbdfs.config.mount_options import MountOptions
from rbdfs.config.option_words import apply_options
from rbdfs.errors import UserError
from rbdfs.keeper import meters_client
from rbdfs.keeper.meters_client import meters_at
from rbdfs.keeper.metrics import Metrics

if TYPE_CHECKING:
    from pathlib import Path

FACTS = {"mountpoint": "/m", "source": "rbd", "state": "serving", "keeper": 1}


def listening(address: str) -> Metrics:
    return Metrics(apply_options(MountOptions(), [f"metrics={address}"]))


@pytest.mark.parametrize(
    "arguments", [["status", "--prometheus", "/"], ["--metrics=[::1]:0", "p", "/"]]
)
def test_without_the_library(arguments: list[str]) -> None:
    code = (
        "import sys; sys.modules['prometheus_client'] = None;"
        "from rbdfs.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "needs prometheus_client, which is not installed: apt-get install" in line
    assert "rbdfs[metrics]" in line


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("no.such.host.invalid:9", ""),
        ("192.0.2.1:9", "Cannot assign requested address"),
        ("/nonexistent/metrics.sock", "No such file or directory"),
    ],
)
def test_an_address_that_cannot_be_had(address: str, reason: str) -> None:
    with pytest.raises(
        UserError, match=f"cannot listen on {address} for metrics: .*{reason}"
    ) as exc:
        listening(address)
    assert "Unknown error" not in str(exc.value)


def test_a_path_that_is_in_use_or_was(tmp_path: Path) -> None:
    path = tmp_path / "metrics.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with listening(str(path)):
        with pytest.raises(UserError, match="in use"):
            listening(str(path))
        assert path.is_socket()
    assert not path.exists()
    path.write_text("precious")
    with pytest.raises(UserError, match="in use"):
        listening(str(path))
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"error": "unknown command 'metrics'"}, "of an older rbdfs, which counts nothing"),
        ({"error": "the mount is over"}, "the mount is over"),
        (FACTS, "no memory"),
    ],
)
def test_a_keeper_that_gives_none(
    monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], said: str
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        monkeypatch.setattr(meters_client, "entry_at", lambda *_: None)
        monkeypatch.setattr(meters_client, "connected", lambda *_: ours)
        theirs.send(json.dumps(answer).encode())
        with pytest.raises(UserError, match=said), meters_at("/m", "status"):
            pass


def test_a_keeper_that_gives_something_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A read of it might hang, or a mapping be cut off."""
    (tmp_path / "file").write_bytes(b"x")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, (tmp_path / "file").open() as file:
        monkeypatch.setattr(meters_client, "entry_at", lambda *_: None)
        monkeypatch.setattr(meters_client, "connected", lambda *_: ours)
        socket.send_fds(theirs, [json.dumps(FACTS).encode()], [file.fileno()])
        with pytest.raises(UserError, match="no memory"), meters_at("/m", "status"):
            pass
