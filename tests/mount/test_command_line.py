"""What a start that cannot work says: an exit code, one line, and nothing is left of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import pytest

import rbdfs
from rbdfs.config.command_line import COMMANDS
from tests.support.images import MIB
from tests.support.mounts import RBDFS, mounted, processes_naming, wait_for_end

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

# The cluster is asked for in all of these, and each takes a fraction of a second.
REFUSED_S = 20.0


def rbdfs_output(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=REFUSED_S,
        **options,
    )


def assert_refused(command: list[str], exit_code: int, pattern: str) -> None:
    """One line and the exit code, and no process is left."""
    done = rbdfs_output(command)
    assert (done.returncode, done.stdout) == (exit_code, ""), done.stderr
    assert re.fullmatch(rf"rbdfs: .*{pattern}.*\n", done.stderr), done.stderr
    assert processes_naming(command[-1]) == []


@pytest.fixture
def mountpoint(mounting: Mounting) -> Path:
    return mounting.mountpoint()


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (["--no-such-option"], "--no-such-option"),
        (["-o", "nosuchopt"], "nosuchopt"),
        (["-o", "uid=no one"], "uid=no one"),
        (["-o", "uid=-1"], "uid=-1"),
        (["-o", "umask=8"], "umask=8"),
        (["-o", "ro=1"], "ro=1"),
        (["--connect-timeout", "0"], "0"),
        (["--connect-timeout", "-1"], "-1"),
        (["--connect-timeout", "nan"], "nan"),
        (["--connect-timeout", "soon"], "soon"),
    ],
    ids=" ".join,
)
def test_command_line_without_a_meaning(
    mounting: Mounting, mountpoint: Path, arguments: list[str], pattern: str
) -> None:
    assert_refused(mounting.command("rbd", mountpoint, *arguments), 2, pattern)
    assert not mounted(mountpoint)


@pytest.mark.parametrize(
    "command", ["--help", "mount --help", "--version", "mounts --json", "status --help"]
)
def test_an_answer_that_cannot_be_written(command: str) -> None:
    done = rbdfs_output(["sh", "-c", f"exec {RBDFS} {command} >/dev/full"])
    assert (done.returncode, done.stderr) == (
        1,
        "rbdfs: cannot write the answer: No space left on device\n",
    )


def test_as_a_module_of_python() -> None:
    done = rbdfs_output([sys.executable, "-m", "rbdfs", "--version"])
    assert (done.returncode, done.stdout, done.stderr) == (0, f"rbdfs {rbdfs.__version__}\n", "")
    done = rbdfs_output([sys.executable, "-m", "rbdfs", "rbd"])
    assert (done.returncode, done.stderr) == (
        2,
        "rbdfs: MOUNTPOINT missing, and 'rbd' is no command (see rbdfs --help)\n",
    )


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        ("", 2, "POOL (or --all-pools) and MOUNTPOINT missing (see rbdfs --help)"),
        ("rbd /mnt more", 2, "too many arguments: more"),
        (
            "status",
            2,
            "MOUNTPOINT missing (see rbdfs status --help)",
        ),
        (
            "umount /",
            1,
            "'/' is not a mount of rbdfs (to mount a pool of the name umount: rbdfs -- umount /)",
        ),
        (
            "status --prometheus /",
            1,
            "'/' is not a mount of rbdfs (to mount a pool of the name status: rbdfs -- status /)",
        ),
        (
            f"--metrics=/{'x' * 107} rbd /mnt",
            2,
            "argument --metrics: not ADDR:PORT or a path of up to 107 bytes: "
            f"/{'x' * 107} (see rbdfs --help)",
        ),
        ("umount /nowhere", 1, "'/nowhere': No such file or directory"),
        (
            "status -o ro /mnt",
            2,
            "unknown option -o (to mount a pool of the name status: rbdfs -- status MOUNTPOINT)",
        ),
        ("umount -l /mnt", 2, "unknown option -l"),
        ("list", 2, "MOUNTPOINT missing, and 'list' is no command (see rbdfs --help)"),
        (
            "umount --timeout=0 /mnt",
            2,
            "argument --timeout: not a number of seconds above 0, up to 86400: 0"
            " (see rbdfs umount --help)",
        ),
        (
            "--id= rbd /mnt",
            2,
            "argument --id/--user/-n/--name: not the id of a client: '' (see rbdfs --help)",
        ),
        ("rbd:rbd /mnt", 2, "a pool name is required, as in rbd:POOL/IMAGE: 'rbd:rbd'"),
        ("--all-pools rbd /mnt", 2, "all pools, and rbd too?"),
        ("mounts --jsn", 2, "unknown option --jsn: did you mean --json?"),
        ("rbd /nowhere", 1, "mount point '/nowhere': No such file or directory"),
        ("rbd /mnt --read-onl", 2, "unknown option --read-onl: did you mean --read-only?"),
    ],
)
def test_what_is_said_to_the_word(arguments: str, code: int, line: str) -> None:
    done = rbdfs_output([str(RBDFS), *arguments.split()])
    assert (done.returncode, done.stderr) == (code, f"rbdfs: {line}\n")


def test_missing_arguments() -> None:
    for arguments in ([], ["rbd"], ["rbd", "/mnt", "more"]):
        done = rbdfs_output([str(RBDFS), *arguments])
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(r"rbdfs: .+\n", done.stderr)


def test_version_and_help() -> None:
    done = rbdfs_output([str(RBDFS), "--version"])
    assert (done.returncode, done.stdout, done.stderr) == (0, f"rbdfs {rbdfs.__version__}\n", "")
    overview = rbdfs_output([str(RBDFS), "--help"])
    assert rbdfs_output([str(RBDFS), "help"]).stdout == overview.stdout
    assert (overview.returncode, overview.stderr) == (0, "")
    for text in ("POOL[/NAMESPACE]", "MOUNTPOINT", "Exit codes:"):
        assert text in overview.stdout
    for command in COMMANDS:
        assert re.search(rf"^  {command} +\w", overview.stdout, re.MULTILINE)
        done = rbdfs_output([str(RBDFS), command, "--help"])
        assert (done.returncode, done.stderr) == (0, "")
        for text in (f"{command}", "--json", "--help", "Exit codes:"):
            assert text in done.stdout


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ("-o snapshot rbd /mnt", "snapshots"),
        ("-o snapshots=hiden rbd /mnt", "snapshots=hidden"),
        ("-o manage=snapshot rbd /mnt", "manage=snapshots"),
        ("--conect-timeout=3 rbd /mnt", "--connect-timeout"),
        ("mount --all-pool /mnt", "--all-pools"),
        ("status --jsn /mnt", "--json"),
        ("mont rbd /mnt", "rbdfs mount"),
        ("staus /nowhere", "rbdfs status"),
        ("restat", "rbdfs restart"),
    ],
)
def test_the_nearest_word_is_named(arguments: str, meant: str) -> None:
    done = rbdfs_output([str(RBDFS), *arguments.split()])
    assert done.returncode in (1, 2)
    assert re.fullmatch(rf"rbdfs: .*: did you mean {meant}\?.*\n", done.stderr), done.stderr


def test_nothing_is_guessed_of_what_is_like_nothing() -> None:
    for arguments in ("-o x rbd /mnt", "--quux rbd /mnt", "pool /mnt more"):
        assert "did you mean" not in rbdfs_output([str(RBDFS), *arguments.split()]).stderr


def test_ceph_knows_no_option_that_is_almost_ours(mounting: Mounting, mountpoint: Path) -> None:
    command = mounting.command("rbd", mountpoint, "-o", "snapshot=hidden")
    assert_refused(
        command, 2, r"unknown option snapshot, of Ceph neither: did you mean snapshots\?"
    )


def test_the_word_mount_may_be_said(mounting: Mounting, mountpoint: Path) -> None:
    program, *arguments = mounting.command("rbd", mountpoint, "--json")
    done = rbdfs_output([program, "mount", *arguments])
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    try:
        assert (told["source"], told["mountpoint"]) == ("rbd", str(mountpoint))
        assert told["pid"] in processes_naming(str(mountpoint))
    finally:
        subprocess.run(["umount", mountpoint], check=True)
        wait_for_end(told["pid"])


@pytest.mark.parametrize("arguments", ["--json a", "-f --json rbd /nowhere", "status --json /"])
def test_a_failure_is_told_as_json_too(arguments: str) -> None:
    done = rbdfs_output([str(RBDFS), *arguments.split()])
    assert done.returncode in (1, 2)
    assert f"rbdfs: {json.loads(done.stdout)['error']}\n" == done.stderr


def test_a_failure_of_a_daemon_is_told_as_json_too(mounting: Mounting, mountpoint: Path) -> None:
    done = rbdfs_output(mounting.command("no-such-pool", mountpoint, "--json"))
    assert done.returncode == 1
    assert f"rbdfs: {json.loads(done.stdout)['error']}\n" == done.stderr


@pytest.mark.parametrize(
    ("source", "exit_code", "pattern"),
    [
        ("no-such-pool", 1, "no such pool.*no-such-pool"),
        ("rbd/no-such-namespace", 1, "no such .*namespace.*rbd/no-such-namespace"),
        ("rbd//", 2, "rbd//"),
        ("a/b/c", 2, "a/b/c"),
        ("", 2, "POOL"),
    ],
)
def test_source_that_is_not_there(
    mounting: Mounting, mountpoint: Path, source: str, exit_code: int, pattern: str
) -> None:
    for mode in ([], ["-f"]):
        assert_refused(mounting.command(source, mountpoint, *mode), exit_code, pattern)
    assert not mounted(mountpoint)


def test_configuration_file(mounting: Mounting, mountpoint: Path, tmp_path: Path) -> None:
    missing, broken = tmp_path / "missing.conf", tmp_path / "broken.conf"
    broken.write_text("[global\nmon host = = nonsense\n]]")
    for conf in (missing, broken, tmp_path):
        command = mounting.command("rbd", mountpoint, "-c", str(conf))
        assert_refused(command, 1, re.escape(str(conf)))
    assert not mounted(mountpoint)


def test_setting_that_ceph_does_not_know(mounting: Mounting, mountpoint: Path) -> None:
    for option, name in (
        ("no_such_setting=1", "unknown option no_such_setting, of Ceph neither"),
        ("rbd_cache=perhaps", "Ceph does not take the value of rbd_cache"),
    ):
        assert_refused(mounting.command("rbd", mountpoint, "-o", option), 2, name)


def test_client_id_and_key(
    ceph: Ceph, mounting: Mounting, mountpoint: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.keyring"
    wrong.write_text(ceph.keyring("rw").read_text().replace("client.rw", "client.admin"))
    empty = tmp_path / "empty.keyring"
    empty.write_text("")
    secret = re.findall(r"key = (\S+)", wrong.read_text())[0]
    for arguments, pattern in (
        (["--id", "nobody"], r"client\.nobody"),
        (["--id", "nobody", "-k", str(ceph.keyring("rw"))], r"client\.nobody"),
        (["-k", str(wrong)], r"client\.admin"),
        (["-k", str(empty)], r"client\.admin"),
        (["-k", str(tmp_path / "missing.keyring")], r"client\.admin"),
    ):
        command = mounting.command("rbd", mountpoint, *arguments)
        assert_refused(command, 1, pattern)
        assert secret not in rbdfs_output(command).stderr
    assert not mounted(mountpoint)


def test_client_without_capabilities_on_the_pool(
    ceph: Ceph, pool: str, mounting: Mounting, mountpoint: Path, tmp_path: Path
) -> None:
    user, keyring = f"other-{uuid.uuid4().hex[:8]}", tmp_path / "keyring"
    caps = ["mon", "profile rbd", "osd", f"profile rbd pool={pool}"]
    keyring.write_text(ceph.ceph("auth", "get-or-create", f"client.{user}", *caps))
    try:
        arguments = ["--id", user, "-k", str(keyring)]
        assert_refused(
            mounting.command("rbd", mountpoint, *arguments),
            1,
            f"client.{user} has no permission to .* rbd",
        )
        with mounting(pool, *arguments) as mount:
            assert mount.alive
    finally:
        ceph.ceph("auth", "rm", f"client.{user}")


def test_monitor_that_is_not_there(mounting: Mounting, mountpoint: Path) -> None:
    command = mounting.command("rbd", mountpoint, "-m", "127.0.0.1:1", "--connect-timeout", "2")
    assert_refused(command, 1, "cluster did not answer")
    assert not mounted(mountpoint)


def test_mount_point(mounting: Mounting, mountpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    full = tmp_path / "full"
    (full / "something").mkdir(parents=True)
    for path, pattern in (
        (tmp_path / "missing", "No such file or directory"),
        (file, "not a directory"),
        (file / "below", "Not a directory"),
        (full, "not empty"),
    ):
        assert_refused(mounting.command("rbd", path), 1, f"{path}.*{pattern}")
        assert not mounted(path)
    assert os.listdir(full) == ["something"]
    with mounting("rbd", "-o", "nonempty", mountpoint=full) as mount:
        assert "something" not in os.listdir(mount.path)


def test_mount_point_in_use(mounting: Mounting, pool: str, ceph: Ceph) -> None:
    ceph.rbd("create", "--size=1M", f"{pool}/there")
    with mounting(pool) as mount:
        done = rbdfs_output(mounting.command("rbd", mount.path))
        assert done.returncode == 1
        assert re.fullmatch(r"rbdfs: .*in use.*\n", done.stderr)
        assert mount.file("there").stat().st_size == MIB


@pytest.mark.parametrize(
    "name", ["with space", "a,b=c", "line\nbreak", "back\\slash", "\\040", "ünï", b"\xff", "-o"]
)
def test_any_name_of_a_mount_point(mounting: Mounting, name: str | bytes) -> None:
    path = mounting.mountpoint(os.fsdecode(name))
    with mounting("rbd", mountpoint=path) as mount:
        assert mount.alive
    assert not mounted(path)


def test_relative_paths_and_links(ceph: Ceph, mounting: Mounting, tmp_path: Path) -> None:
    mountpoint = mounting.mountpoint()
    link = tmp_path / "link"
    link.symlink_to(mountpoint)
    conf = os.path.relpath(ceph.conf, mounting.directory)
    for path in (mountpoint.name, os.path.relpath(link, mounting.directory), f"{mountpoint}/"):
        done = rbdfs_output(mounting.command("rbd", path, "-c", conf), cwd=mounting.directory)
        try:
            assert (done.returncode, done.stderr) == (0, "")
            assert mounted(mountpoint)
        finally:
            subprocess.run(["umount", mountpoint], check=True)


def test_what_is_above_a_link_is_above_where_it_leads(
    ceph: Ceph, mounting: Mounting, tmp_path: Path
) -> None:
    """`link/..` in any path is what the shell means by it, and not where the link lies."""
    for directory in (tmp_path / "there", tmp_path):
        (directory / "mnt").mkdir(parents=True)
    there = tmp_path / "there"
    (there / "below").mkdir()
    (tmp_path / "link").symlink_to(there / "below")
    (there / "conf").symlink_to(ceph.conf)
    options = [f"--{name}=link/../{name}" for name in ("conf", "log-file")]
    for environment, arguments in (("link/../conf", options[1:]), ("/nowhere", options)):
        done = rbdfs_output(
            [str(RBDFS), *arguments, "rbd", "link/../mnt"],
            cwd=tmp_path,
            env={**os.environ, "CEPH_CONF": environment},
        )
        try:
            assert (done.returncode, done.stderr) == (0, "")
            assert mounted(there / "mnt")
            assert not mounted(tmp_path / "mnt")
        finally:
            subprocess.run(["umount", there / "mnt"], check=True)
    assert "is ready" in (there / "log-file").read_text()
    assert not (tmp_path / "log-file").exists()


def in_a_lost_directory(
    tmp_path: Path, command: list[str], **environment: str
) -> subprocess.CompletedProcess[str]:
    """What a command says whose working directory was removed before it began."""
    script = 'mkdir lost; cd lost; rmdir ../lost; exec "$@"'
    return rbdfs_output(
        ["sh", "-c", script, "sh", *command], cwd=tmp_path, env={**os.environ, **environment}
    )


def test_a_working_directory_that_has_gone(
    ceph: Ceph, mounting: Mounting, mountpoint: Path, tmp_path: Path
) -> None:
    """As of who stands in a mount that was detached: it is needed for relative paths only."""
    for command, environment in (
        (mounting.command("rbd", mountpoint), {"CEPH_CONF": "no.conf"}),
        ([str(RBDFS), "rbd", str(mountpoint)], {"CEPH_CONF": f"/nowhere,{ceph.conf}"}),
    ):
        done = in_a_lost_directory(tmp_path, command, **environment)
        try:
            assert (done.returncode, done.stderr) == (0, "")
            assert mounted(mountpoint)
            told = in_a_lost_directory(tmp_path, [str(RBDFS), "mounts"], CEPH_CONF="no.conf")
            assert (told.returncode, told.stderr) == (0, "")
            assert str(mountpoint) in told.stdout
        finally:
            subprocess.run(["umount", mountpoint], check=True)


@pytest.mark.parametrize(
    ("arguments", "conf"),
    [
        ("rbd mnt", "/nowhere"),
        ("-k key.ring rbd /mnt", "/nowhere"),
        ("--log-file log rbd /mnt", "/nowhere"),
        ("-c a.conf rbd /mnt", "/nowhere"),
        ("rbd:rbd/image:conf=a.conf /mnt", "/nowhere"),
        ("rbd /mnt", "/nowhere,a.conf"),
    ],
)
def test_a_relative_path_without_a_working_directory(
    tmp_path: Path, arguments: str, conf: str
) -> None:
    done = in_a_lost_directory(tmp_path, [str(RBDFS), *arguments.split()], CEPH_CONF=conf)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"rbdfs: '(mnt|key\.ring|log|a\.conf)' is relative, and the working directory is not to"
        r" be found: No such file or directory\n",
        done.stderr,
    ), done.stderr


def test_a_command_in_a_directory_of_the_mount_that_has_gone(
    pool: str, mounting: Mounting, tmp_path: Path
) -> None:
    with mounting(pool, "-o", "manage,datapath=python") as mount:
        script = 'cd "$1"; mkdir lost; cd lost; rmdir ../lost; exec "$2" status .'
        done = rbdfs_output(["sh", "-c", script, "sh", str(mount.path), str(RBDFS)], cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "rbdfs: '.': no keeper answers for it\n"
