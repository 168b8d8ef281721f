"""`rbdfs stat` tells of a file what the rbd tool tells of the image, and who may ask."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import rbd

from rbdfs.model.file_report import ATTRIBUTE
from rbdfs.model.qemu_filename import QemuFileName, parse_qemu_filename
from tests.support.conditions import SEEN_S, eventually
from tests.support.images import MIB, import_image, open_image, random_bytes
from tests.support.mounts import RBDFS, TIMEOUT_S, opened, opened_and_lost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

NOBODY = 65534


def rbdfs(*arguments: str | bytes | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [RBDFS, *arguments]
    options = {"capture_output": True, "text": True, "timeout": TIMEOUT_S} | options
    return subprocess.run(command, **options)


def told(path: Path) -> dict[str, Any]:
    """What is known of a file, which may have been made elsewhere just now."""
    eventually(path.exists, SEEN_S, f"{path} to be there")
    done = rbdfs("stat", "--json", "--", path)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def told_text(path: Path) -> str:
    done = rbdfs("stat", "--", path)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def refusal(*arguments: str | Path, **options: Any) -> str:
    """The one line of a command that fails."""
    done = rbdfs(*arguments, **options)
    assert done.returncode == 1
    assert re.fullmatch(r"rbdfs: .+\n", done.stderr), done.stderr
    return done.stderr


def rbd_json(ceph: Ceph, *arguments: str) -> Any:
    return json.loads(ceph.rbd(*arguments, "--format=json"))


def second(text: str) -> datetime:
    """When the report has it, as exactly as the rbd tool tells."""
    return datetime.fromisoformat(text).replace(microsecond=0)


def rbd_time(text: str) -> datetime:
    return datetime.strptime(text, "%a %b %d %H:%M:%S %Y").astimezone(UTC)


@pytest.fixture
def spec(ceph: Ceph, pool: str, image_name: str) -> str:
    """A new image, of which the second of three objects of 1 MiB has data."""
    ceph.rbd("create", "--size=2560K", "--object-size=1M", f"{pool}/{image_name}")
    with open_image(ceph, pool, image_name) as image:
        image.write(random_bytes(4096), MIB)
    return f"{pool}/{image_name}"


def test_what_rbd_info_tells(ceph: Ceph, spec: str, mount: Mount, image_name: str) -> None:
    info = rbd_json(ceph, "info", spec)
    report = told(mount.file(image_name))
    assert report["file"] == str(mount.file(image_name))
    assert (report["type"], report["spec"]) == ("image", spec)
    assert report["image_id"] == info["id"]
    assert report["size"] == report["provisioned"] == info["size"] == 2560 << 10
    assert report["object_size"] == info["object_size"]
    assert report["format"] == info["format"]
    assert report["features"] == info["features"]
    assert report["flags"] == info["flags"] == []
    for name, theirs in (("created", "create"), ("accessed", "access"), ("modified", "modify")):
        assert second(report[name]) == rbd_time(info[f"{theirs}_timestamp"])
    (usage,) = rbd_json(ceph, "du", spec)["images"]
    assert report["used"] == usage["used_size"] == MIB
    assert report["provisioned"] == usage["provisioned_size"]
    assert report["parents"] == report["children"] == report["snapshots"] == []
    assert report["locks"] == report["watchers"] == []
    assert report["group"] == report["encryption"] == "none"
    assert report["migration"] == {"state": "none"}
    assert report["mirroring"] == {"state": "disabled"}
    assert report["not_known"] == report["left_out"] == {}
    pool, _, name = spec.partition("/")
    assert report["data_pool"] == pool
    parsed = parse_qemu_filename(report["qemu"])
    assert parsed == QemuFileName(pool, name, conf=str(ceph.conf))


def test_flags_and_a_pool_for_the_data(ceph: Ceph, pool: str, mount: Mount) -> None:
    with ceph.temporary_pool("data") as data:
        ceph.rbd("create", "--size=4M", f"--data-pool={data}", f"{pool}/apart")
        ceph.rbd("feature", "disable", f"{pool}/apart", "object-map", "fast-diff")
        with open_image(ceph, pool, "apart") as image:
            image.write(b"x" * 4096, 0)
        ceph.rbd("feature", "enable", f"{pool}/apart", "object-map", "fast-diff")
        report = told(mount.file("apart"))
        assert report["data_pool"] == data
        assert report["flags"] == rbd_json(ceph, "info", f"{pool}/apart")["flags"]
        assert report["flags"] == ["object map invalid", "fast diff invalid"]
        assert report["used"] is None
        assert "object map" in report["not_known"]["used"]
        text = told_text(mount.file("apart"))
        assert re.search(r"^Flags: +object map invalid, fast diff invalid$", text, re.MULTILINE)
        assert re.search(r"^Used: +not known: no object map", text, re.MULTILINE)
        ceph.rbd("rm", "--no-progress", f"{pool}/apart")


def test_who_has_it_open(ceph: Ceph, spec: str, mount: Mount, pool: str, image_name: str) -> None:
    path = mount.file(image_name)
    with opened(path, os.O_RDONLY), opened(path, os.O_RDWR):
        report = told(path)
        assert (report["open"]["readers"], report["open"]["writers"]) == (1, 1)
        (lock,) = report["locks"]
        (theirs,) = rbd_json(ceph, "lock", "ls", spec)
        assert (lock["client"], lock["address"]) == (theirs["locker"], theirs["address"])
        assert (lock["cookie"], lock["exclusive"]) == (theirs["id"], True)
        (watcher,) = report["watchers"]
        (status,) = rbd_json(ceph, "status", spec)["watchers"]
        assert (watcher["address"], watcher["cookie"]) == (status["address"], status["cookie"])
        assert watcher["client"] == f"client.{status['client']}"
        assert lock["ours"]
        assert watcher["ours"]
    # Nobody has taken it from the other client, nor opened anything for writing.
    with open_image(ceph, pool, image_name) as image:
        image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)
        report = told(path)
        assert [(each["ours"], each["exclusive"]) for each in report["locks"]] == [(False, True)]
        assert [each["ours"] for each in report["watchers"]] == [False]
        assert report["open"] == {"readers": 0, "writers": 0, "growing": False, "failed": ""}
        assert image.is_exclusive_lock_owner()
        image.write(b"still mine", 0)
        text = told_text(path)
        assert re.search(r"^Locks: +client\.\d+ at \S+, exclusive$", text, re.MULTILINE)
    ceph.rbd("lock", "add", spec, "mine")
    (lock,) = told(path)["locks"]
    assert (lock["cookie"], lock["exclusive"], lock["ours"]) == ("mine", False, False)


def test_a_chain_of_three_with_one_in_the_trash(
    ceph: Ceph, pool: str, spec: str, mount: Mount, image_name: str
) -> None:
    for older, newer in (("", "-b"), ("-b", "-c")):
        ceph.rbd("snap", "create", "--no-progress", f"{spec}{older}@s 1")
        ceph.rbd("clone", "--rbd-default-clone-format=2", f"{spec}{older}@s 1", f"{spec}{newer}")
    with open_image(ceph, pool, f"{image_name}-c") as image:
        image.write(b"c", 0)
    # Still there for its clones.
    ceph.rbd("trash", "mv", spec)
    report = told(mount.file(f"{image_name}-c"))
    parent = rbd_json(ceph, "info", f"{spec}-c")["parent"]
    above = rbd_json(ceph, "info", f"{spec}-b")["parent"]
    assert report["used"] == rbd_json(ceph, "du", f"{spec}-c")["images"][0]["used_size"] == MIB
    b, first = report["parents"]
    assert (b["spec"], b["in_trash"]) == (f"{spec}-b@s 1", False)
    assert (b["image_id"], b["overlap"]) == (parent["id"], parent["overlap"])
    assert (first["spec"], first["in_trash"]) == (f"{pool}/id:{above['id']}@s 1", above["trash"])
    assert (first["image"], first["overlap"]) == (image_name, above["overlap"])
    assert first["in_trash"]
    report = told(mount.file(f"{image_name}-b"))
    (child,) = rbd_json(ceph, "children", f"{spec}-b@s 1")
    assert child["image"] == f"{image_name}-c"
    (found,) = report["children"]
    assert (found["spec"], found["image_id"]) == (
        f"{spec}-c",
        rbd_json(ceph, "info", f"{spec}-c")["id"],
    )
    assert found["snapshot_id"] == report["snapshots"][0]["id"]
    ceph.rbd("trash", "mv", f"{spec}-c")
    (found,) = told(mount.file(f"{image_name}-b@s 1"))["children"]
    assert (found["in_trash"], found["image"]) == (True, f"{image_name}-c")
    text = told_text(mount.file(f"{image_name}-b"))
    assert re.search(rf"^Parents: +{first['spec']}, in the trash, was {image_name}, ", text, re.M)


@pytest.fixture
def clone(ceph: Ceph) -> Iterator[tuple[str, str]]:
    """A pool with a clone `b` of `a@s`, and the id of `a`."""
    with ceph.temporary_pool() as pool:
        ceph.rbd("create", "--size=2560K", f"{pool}/a")
        ceph.rbd("snap", "create", "--no-progress", f"{pool}/a@s")
        ceph.rbd("clone", "--rbd-default-clone-format=2", f"{pool}/a@s", f"{pool}/b")
        yield pool, rbd_json(ceph, "info", f"{pool}/a")["id"]


def test_a_parent_that_is_gone(ceph: Ceph, mounting: Mounting, clone: tuple[str, str]) -> None:
    pool, parent_id = clone
    ceph.rados("-p", pool, "rm", f"rbd_header.{parent_id}")
    for key in (f"id_{parent_id}", "name_a"):
        ceph.rados("-p", pool, "rmomapkey", "rbd_directory", key)
    with mounting(pool) as mount:
        mount.allow_log(f"parent {parent_id} is gone", "was removed")
        report = told(mount.file("b"))
        text = told_text(mount.file("b"))
    (parent,) = report["parents"]
    assert (parent["image_id"], parent["gone"]) == (parent_id, True)
    assert report["locks"] is report["watchers"] is None
    assert {"locks", "watchers", "parents"} <= report["not_known"].keys()
    assert (report["size"], report["children"]) == (2560 << 10, [])
    assert re.search(r"^Parents: .*, gone, overlap ", text, re.MULTILINE)
    assert re.search(r"^Locks: +not known: .*gone", text, re.MULTILINE)


def test_a_parent_that_makes_no_sense(
    ceph: Ceph, mounting: Mounting, clone: tuple[str, str]
) -> None:
    pool, parent_id = clone
    ceph.rados("-p", pool, "setomapval", f"rbd_header.{parent_id}", "order", "nonsense")
    with mounting(pool) as mount:
        mount.allow_log("(?s).*")
        report = told(mount.file("b"))
    (parent,) = report["parents"]
    spec = f"{pool}/a@id:{parent['snapshot_id']}"
    assert (parent["spec"], parent["image"]) == (spec, "a")
    assert {"locks", "watchers", "parents"} <= report["not_known"].keys()
    assert report["size"] == 2560 << 10


def test_a_parent_that_the_client_may_not_read(
    ceph: Ceph, spec: str, mounting: Mounting, tmp_path: Path
) -> None:
    """What is not for the client to read is told of so, and all else is told."""
    parent_id = rbd_json(ceph, "info", spec)["id"]
    ceph.rbd("snap", "create", "--no-progress", f"{spec}@s")
    with ceph.temporary_pool("other") as other:
        ceph.rbd("clone", "--rbd-default-clone-format=2", f"{spec}@s", f"{other}/a")
        caps = ("mon", "profile rbd", "osd", f"profile rbd pool={other}")
        name, keyring = f"user-{other}", tmp_path / "keyring"
        keyring.write_text(ceph.ceph("auth", "get-or-create", f"client.{name}", *caps))
        try:
            with mounting(other, "--id", name, "-k", str(keyring)) as mount:
                mount.allow_log("permission|permitted")
                report = told(mount.file("a"))
                text = told_text(mount.file("a"))
        finally:
            ceph.ceph("auth", "rm", f"client.{name}")
    (parent,) = report["parents"]
    assert (parent["image_id"], parent["overlap"]) == (parent_id, 2560 << 10)
    assert {"parents", "locks", "encryption"} <= report["not_known"].keys()
    assert report["locks"] is None
    assert (report["size"], report["used"], report["children"]) == (2560 << 10, 0, [])
    assert re.search(r"^Encryption: +not known: ", text, re.MULTILINE)


def test_clones_of_format_1_in_another_pool(
    ceph: Ceph, spec: str, mount: Mount, image_name: str
) -> None:
    ceph.rbd("snap", "create", "--no-progress", f"{spec}@s")
    ceph.rbd("snap", "protect", f"{spec}@s")
    with ceph.temporary_pool("other") as other:
        for name in ("a", "b"):
            ceph.rbd("clone", "--rbd-default-clone-format=1", f"{spec}@s", f"{other}/{name}")
        report = told(mount.file(f"{image_name}@s"))
        assert report["snapshot"]["protected"]
        found = sorted(child["spec"] for child in report["children"])
        assert found == [f"{other}/a", f"{other}/b"]
        assert found == sorted(
            f"{child['pool']}/{child['image']}" for child in rbd_json(ceph, "children", f"{spec}@s")
        )


def test_snapshots(ceph: Ceph, spec: str, mount: Mount, image_name: str) -> None:
    for name in ("s", "t"):
        ceph.rbd("snap", "create", "--no-progress", f"{spec}@{name}")
    ceph.rbd("snap", "protect", f"{spec}@t")
    pool = spec.partition("/")[0]
    ceph.rbd("group", "create", f"{pool}/group")
    ceph.rbd("group", "image", "add", f"{pool}/group", spec)
    ceph.rbd("group", "snap", "create", f"{pool}/group@moment")
    report = told(mount.file(image_name))
    theirs = rbd_json(ceph, "snap", "ls", "--all", spec)
    assert [
        (snap["id"], snap["name"], snap["size"], snap["namespace"], second(snap["time"]))
        for snap in reversed(report["snapshots"])
    ] == [
        (
            *(snap["id"], snap["name"], snap["size"]),
            *(snap["namespace"]["type"], rbd_time(snap["timestamp"])),
        )
        for snap in theirs
    ]
    assert [snap["protected"] for snap in report["snapshots"]] == [False, True, False]
    assert report["group"] == f"{pool}/group"
    snapshot = told(mount.file(f"{image_name}@t"))
    assert (snapshot["type"], snapshot["spec"]) == ("snapshot", f"{spec}@t")
    assert snapshot["snapshot"] == report["snapshots"][1]
    assert (snapshot["used"], snapshot["size"]) == (MIB, 2560 << 10)
    assert "snapshots" not in snapshot
    assert "locks" not in snapshot


def test_a_migration_that_is_prepared(
    ceph: Ceph, spec: str, mount: Mount, pool: str, image_name: str
) -> None:
    mount.allow_log("migration|is being moved|left behind")
    ceph.rbd("migration", "prepare", spec, f"{spec}-there")
    report = told(mount.file(f"{image_name}-there"))
    status = rbd_json(ceph, "status", f"{spec}-there")["migration"]
    assert report["migration"] == {"state": status["state"], "role": "target", "other": spec}
    assert status["source_image_name"] == image_name
    assert "migrating" in report["features"]
    assert rbd_json(ceph, "status", f"{spec}-there")["watchers"] == []
    ceph.rbd("migration", "abort", "--no-progress", f"{spec}-there")
    report = told(mount.file(image_name))
    assert report["migration"] == {"state": "none"}


@pytest.mark.parametrize(("version", "name"), [("luks1", b"\0\1"), ("luks2", b"\0\2")])
def test_a_luks_header(
    ceph: Ceph, pool: str, mount: Mount, image_name: str, version: str, name: bytes
) -> None:
    import_image(ceph, f"{pool}/{image_name}", b"LUKS\xba\xbe" + name + bytes(MIB))
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{image_name}@s")
    with open_image(ceph, pool, image_name) as image:
        image.write(bytes(8), 0)
    assert told(mount.file(image_name))["encryption"] == "none"
    assert told(mount.file(f"{image_name}@s"))["encryption"] == version


def test_hostile_names(ceph: Ceph, ioctx: Any, pool: str, mounting: Mounting) -> None:
    """None writes what a terminal obeys, and each is told of."""
    names = ["a:b@c", "new\nline\x1b[31m", "-o", "ünï", "a\\b"]
    for name in (*names, b"\xff\xfe"):
        rbd.RBD().create(ioctx, name, MIB, old_format=False)
    with rbd.Image(ioctx, "-o") as image:
        image.create_snap("s\x1b[0m")
    parent, child = f"{pool}/-o@s\x1b[0m", f"{pool}/cl\x1bone"
    ceph.rbd("clone", "--rbd-default-clone-format=2", parent, child)
    with mounting(pool) as mount:
        files = [path for path in mount.path.iterdir() if path.name.encode()[0] != ord("i")]
        for path in files:
            text = told_text(path)
            assert text.startswith("File: ")
            assert "\x1b" not in text
            report = told(path)
            assert "\x1b" not in report["spec"]
            if report["type"] == "image" and report["image"] in names:
                parsed = parse_qemu_filename(report["qemu"])
                assert (parsed.pool, parsed.image) == (pool, report["image"])
                names.remove(report["image"])
        assert names == []
        done = rbdfs("stat", "--json", "--", *files)
        assert [each["file"] for each in json.loads(done.stdout)] == [str(path) for path in files]


def test_a_namespace_and_a_pool(ceph: Ceph, pool: str, mounting: Mounting) -> None:
    ceph.rbd("namespace", "create", f"{pool}/tenant")
    with mounting(None, "--all-pools") as mount:
        report = told(mount.file(f"{pool}/tenant"))
        assert (report["type"], report["spec"]) == ("namespace", f"{pool}/tenant")
        report = told(mount.file(pool))
        assert (report["type"], report["spec"]) == ("pool", pool)
        assert report["available"] > 0
        assert told(mount.path)["type"] == "pools"
        for path in (mount.path, mount.file(pool), mount.file(f"{pool}/tenant")):
            assert re.match(rf"File: +{path}\nType: +(pools|pool|namespace)", told_text(path))


def test_a_partition(ceph: Ceph, pool: str, image_name: str, mounting: Mounting) -> None:
    ceph.rbd("create", "--size=8M", f"{pool}/{image_name}")
    with mounting(pool, "-o", "partitions") as mount:
        subprocess.run(
            ["sfdisk", "--quiet", "--no-reread", mount.file(image_name)],
            input=b"label: dos\nstart=2048, size=4096\n",
            check=True,
        )
        path = mount.file(f"{image_name}-part1")
        eventually(path.exists, SEEN_S, "the partition")
        with opened(path, os.O_RDONLY):
            report = told(path)
        assert report["type"] == "partition"
        assert report["partition"] == {"number": 1, "offset": MIB}
        assert (report["size"], report["provisioned"]) == (2 * MIB, 8 * MIB)
        assert report["open"]["readers"] == 1
        assert "Partition:" in told_text(path)


def test_a_file_that_grows(pool: str, image_name: str, mounting: Mounting) -> None:
    with mounting(pool, "-o", "manage") as mount:
        path = mount.file(image_name)
        with path.open("wb", buffering=0) as file:
            file.write(bytes(1000))
            os.fsync(file.fileno())
            report = told(path)
            assert report["size"] == 1000
            assert report["open"]["growing"]
        report = told(path)
        assert report["size"] == report["provisioned"] == 1000
        assert not report["open"]["growing"]


@pytest.mark.usefixtures("native")
def test_what_has_failed(ceph: Ceph, spec: str, mount: Mount, image_name: str) -> None:
    path = mount.file(image_name)
    mount.allow_log("(?s).*")
    with opened_and_lost(path, os.O_RDWR) as lost:
        (address,) = ceph.lock_owners(spec)
        ceph.blocklist_add(address)
        eventually(lambda: refused(lambda: os.pwrite(lost, b"x", 0)), what="the fence")
        assert rbdfs("restart", mount.path).returncode == 0
        report = told(path)
        assert report["open"]["writers"] == 1
        assert report["open"]["failed"]
        assert re.search(r"^ +failed: \S", told_text(path), re.MULTILINE)


def refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except OSError as exc:
        return exc.errno == errno.ESHUTDOWN
    return False


@pytest.mark.usefixtures("spec")
def test_it_is_in_no_list_and_nobody_can_set_it(
    pool: str, mounting: Mounting, image_name: str
) -> None:
    with mounting(pool, "-o", "manage") as mount:
        path = mount.file(image_name)
        assert os.fsdecode(ATTRIBUTE) not in os.listxattr(path)
        with pytest.raises(PermissionError):
            os.setxattr(path, ATTRIBUTE, b"{}")
        with pytest.raises(PermissionError):
            os.removexattr(path, ATTRIBUTE)
        # Also with no room, and with little.
        assert json.loads(os.getxattr(path, ATTRIBUTE))["type"] == "image"


@pytest.mark.usefixtures("spec")
def test_who_may_not_read_the_file(pool: str, mounting: Mounting, image_name: str) -> None:
    with mounting(pool, "-o", "allow_other") as mount:
        mount.path.parent.chmod(0o755)
        directory = mount.path
        path = mount.file(image_name)

        def as_nobody() -> None:
            os.chdir(directory)
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)

        with pytest.raises(PermissionError) as caught:
            in_child(as_nobody, lambda: os.getxattr(image_name, ATTRIBUTE))
        assert caught.value.errno == errno.EACCES
        assert told(path)["type"] == "image"


def in_child(before: Any, ask: Any) -> None:
    """Ask in a process of its own; raise the OSError that it met."""
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            before()
            ask()
        except OSError as exc:
            code = exc.errno or 255
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))


def test_what_is_no_file_of_rbdfs(tmp_path: Path, mount: Mount) -> None:
    other = tmp_path / "file"
    other.touch()
    assert "is on no mount of rbdfs" in refusal("stat", other)
    assert "No such file" in refusal("stat", tmp_path / "missing")
    assert "No such file" in refusal("stat", mount.file("missing"))
    done = rbdfs("stat", "--json", other, mount.path)
    assert done.returncode == 1
    failed, found = json.loads(done.stdout)
    assert failed == {"file": str(other), "error": f"{str(other)!a} is on no mount of rbdfs"}
    assert found["type"] == "pool"
    done = rbdfs("stat", "--json", other)
    assert json.loads(done.stdout) == {"error": failed["error"]}


@pytest.mark.usefixtures("native", "spec")
def test_a_server_that_is_killed_meanwhile(
    ceph: Ceph, pool: str, mount: Mount, image_name: str
) -> None:
    """The next server answers, and what was open is told of as before."""
    path = mount.file(image_name)
    mount.allow_log(".*")
    with opened(path, os.O_RDWR), ceph.stalled("osd.0"):
        asking = subprocess.Popen(
            [RBDFS, "stat", "--json", path], stdout=subprocess.PIPE, text=True
        )
        server = json.loads(rbdfs("status", mount.path).stdout)["server"]
        os.kill(server, signal.SIGKILL)
        ceph.signal("osd.0", signal.SIGCONT)
        output, _ = asking.communicate(timeout=TIMEOUT_S)
        assert asking.returncode == 0
        assert json.loads(output)["open"]["writers"] == 1


@pytest.mark.usefixtures("native", "spec")
def test_an_osd_that_is_away(ceph: Ceph, mount: Mount, image_name: str) -> None:
    """It waits for it, and lets itself be interrupted."""
    path = mount.file(image_name)
    told(path)
    with ceph.stalled("osd.0"):
        asking = subprocess.Popen([RBDFS, "stat", path], stdout=subprocess.DEVNULL)
        with pytest.raises(subprocess.TimeoutExpired):
            asking.wait(1)
        asking.send_signal(signal.SIGINT)
        assert asking.wait(TIMEOUT_S) == -signal.SIGINT
    assert told(path)["type"] == "image"
