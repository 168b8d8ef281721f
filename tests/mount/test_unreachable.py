"""What a start says, to the word, where the cluster cannot be reached or a source is not there."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.images import MIB, import_image, random_bytes
from tests.support.mounts import RBDFS, TIMEOUT_S, mounted, processes_naming

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


@pytest.fixture
def mountpoint(mounting: Mounting) -> Path:
    return mounting.mountpoint()


def said(*command: str | Path, code: int = 1, cwd: Path | str = "/", **environment: str) -> str:
    """The one line of a command that is refused, without `rbdfs: ` before it."""
    kept = {name: value for name, value in os.environ.items() if name != "CEPH_CONF"}
    done = subprocess.run(
        list(map(str, command)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**kept, **environment},
        timeout=TIMEOUT_S,
    )
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.startswith("rbdfs: ")
    assert done.stderr.count("\n") == 1
    assert not mounted(command[-1])  # type: ignore[arg-type]
    assert processes_naming(str(command[-1])) == []
    return done.stderr.removeprefix("rbdfs: ").rstrip("\n")


def configured(path: Path, *settings: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in ("[global]", *settings)))
    return path


def test_a_configuration_file_that_cannot_be_read(mountpoint: Path, tmp_path: Path) -> None:
    missing, private = tmp_path / "ceph.cnf", configured(tmp_path / "private.conf")
    private.chmod(0)
    for path in private.parents:
        path.chmod(path.stat().st_mode | 0o011)
    refused = "cannot read configuration file"
    assert said(RBDFS, "-c", missing, "rbd", mountpoint) == (
        f"{refused} '{missing}': No such file or directory"
    )
    assert (
        said(RBDFS, "-c", tmp_path, "rbd", mountpoint) == f"{refused} '{tmp_path}': Is a directory"
    )
    assert said(*NOBODY, RBDFS, "-c", private, "rbd", mountpoint, HOME="/nonexistent") == (
        f"{refused} '{private}': Permission denied"
    )


def test_no_monitor_address(ceph: Ceph, mountpoint: Path, tmp_path: Path) -> None:
    empty, keyring = configured(tmp_path / "empty.conf"), ceph.keyring("admin")
    no_monitor = "no monitor address (-m HOST, or `mon host` in a configuration file): "
    for arguments, environment, why in (
        (["-c", empty], dict[str, str](), f"'{empty}' has none"),
        (["-k", keyring], {"CEPH_CONF": "/nope"}, "'/nope': No such file or directory"),
        (
            [],
            {"CEPH_CONF": f"/nope,{empty}"},
            f"'/nope': No such file or directory; '{empty}' has none",
        ),
        (
            ["--cluster", "there", "-k", keyring],
            {"HOME": "/nowhere"},
            "; ".join(
                f"'{path}': No such file or directory"
                for path in ("/etc/ceph/there.conf", "/nowhere/.ceph/there.conf", "/there.conf")
            ),
        ),
    ):
        command = [str(RBDFS), *map(str, arguments), "rbd", str(mountpoint)]
        found = said(*command, cwd="/", code=1, **environment)
        assert found == f"{no_monitor}{why}"


def test_no_key(ceph: Ceph, mounting: Mounting, mountpoint: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing.keyring"
    admin = ceph.keyring("admin")
    for arguments, why in (
        (["-k", missing], f"no key for client.admin: '{missing}': No such file or directory"),
        (["--id", "x", "-k", admin], f"no key for client.x: '{admin}' has none"),
        (
            ["--id", "nobody"],
            f"no key for client.nobody: '{ceph.keyring('nobody')}': No such file or directory",
        ),
        (
            ["-o", f"keyfile={missing}"],
            f"no key for client.admin: '{missing}': No such file or directory",
        ),
    ):
        command = mounting.command("rbd", mountpoint, *map(str, arguments))
        assert said(*command) == why


def test_monitors_that_have_sections(ceph: Ceph, mountpoint: Path, tmp_path: Path) -> None:
    """As before `mon host`: it is not that there are none."""
    lines = (f"keyring = {ceph.keyring('admin')}", "[mon.a]", "host = a", "mon addr = 127.0.0.1:1")
    conf = configured(tmp_path / "ceph.conf", *lines)
    assert said(RBDFS, "-c", conf, "--connect-timeout=2", "rbd", mountpoint) == (
        f"the cluster did not answer within 2 s: tried the monitors of '{conf}'"
    )


def test_no_key_that_may_be_read(ceph: Ceph, mountpoint: Path, tmp_path: Path) -> None:
    keyring = tmp_path / "keyring"
    keyring.write_bytes(ceph.keyring("admin").read_bytes())
    keyring.chmod(0o600)
    conf = tmp_path / "ceph.conf"
    conf.write_bytes(ceph.conf.read_bytes())
    for path in keyring.parents:
        path.chmod(path.stat().st_mode | 0o011)
    os.chown(mountpoint, 65534, 65534)
    found = said(*NOBODY, RBDFS, "-c", conf, "-k", keyring, "rbd", mountpoint, HOME="/nonexistent")
    assert found == f"no key for client.admin: '{keyring}': Permission denied"


def test_a_monitor_that_has_no_address(ceph: Ceph, mountpoint: Path, tmp_path: Path) -> None:
    key = f"keyring = {ceph.keyring('admin')}"
    conf = configured(tmp_path / "ceph.conf", "mon host = no.such.host.invalid", key)
    assert said(RBDFS, "-c", conf, "rbd", mountpoint) == (
        f"cannot resolve no.such.host.invalid, a monitor of '{conf}'"
    )
    assert said(RBDFS, "-c", conf, "-m", "other.invalid:6789", "rbd", mountpoint) == (
        "cannot resolve other.invalid, a monitor of -m"
    )


@pytest.mark.parametrize("seconds", ["1", "1.5"])
def test_monitors_that_do_not_answer(
    ceph: Ceph, mounting: Mounting, mountpoint: Path, tmp_path: Path, seconds: str
) -> None:
    time = ["--connect-timeout", seconds]
    key = f"keyring = {ceph.keyring('admin')}"
    conf = configured(tmp_path / "ceph.conf", "mon host = 127.0.0.1:1 127.0.0.1:2", key)
    no_answer = f"the cluster did not answer within {seconds} s: tried monitors"
    assert said(RBDFS, "-c", conf, *time, "rbd", mountpoint) == (
        f"{no_answer} 127.0.0.1:1 127.0.0.1:2 of '{conf}'"
    )
    assert said(*mounting.command("rbd", mountpoint, *time, "-m", "127.0.0.1:1")) == (
        f"{no_answer} 127.0.0.1:1 of -m"
    )
    assert said(*mounting.command("rbd", mountpoint, *time, "-o", "mon_host=127.0.0.1:1")) == (
        f"{no_answer} 127.0.0.1:1 of -m"
    )


def test_a_part_of_the_source_that_is_not_there(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting, mountpoint: Path
) -> None:
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    file = mounting.directory / "disk.raw"
    file.touch()
    image = f"{pool}/{image_name}"
    for source, why in (
        ("nopool", "no such pool: nopool"),
        ("nopool/ns", "no such pool: nopool"),
        (f"{pool}/ns", f"no such namespace: {pool}/ns"),
        (image, f"{image} is an image: rbdfs rbd:{image} FILE mounts it on a regular file"),
    ):
        assert said(*mounting.command(source, mountpoint)) == why
    for source, why in (
        ("rbd:nopool/x", "no such pool: nopool"),
        (f"rbd:{pool}/nope", f"no such image: {pool}/nope"),
        (f"rbd:{pool}/nope@s", f"no such image: {pool}/nope"),
        (f"rbd:{pool}/ns/{image_name}", f"no such namespace: {pool}/ns"),
        (f"rbd:{image}@nope", f"no such snapshot: {image}@nope"),
    ):
        assert said(*mounting.command(source, file)) == why
    assert said(*mounting.command(f"{pool}/ns/x", mountpoint), code=2) == (
        f"'{pool}/ns/x' is not POOL or POOL/NAMESPACE; an image is mounted with"
        f" rbdfs rbd:{pool}/ns/x FILE"
    )
