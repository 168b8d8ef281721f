"""The values of ``-o``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbdfs.config.ceph_settings import CephSettings
from rbdfs.config.command_line import parse_arguments
from rbdfs.config.mount_options import MountOptions
from rbdfs.config.option_words import apply_options, split_options
from rbdfs.config.source import Source
from rbdfs.errors import EXIT_USAGE, UserError
from rbdfs.kernel import connection

CACHE_MODES = ("none", "writethrough", "writeback", "unsafe")


def applied(*texts: str) -> MountOptions:
    return apply_options(MountOptions(), texts)


def test_the_defaults_are_private_and_read_write() -> None:
    options = applied()
    assert options == MountOptions()
    assert (options.uid, options.gid) == (os.getuid(), os.getgid())
    assert not options.read_only
    assert not options.allow_other
    assert options.umask == 0o077
    assert options.trim
    assert not options.manage
    assert (options.lock, options.cache, options.data_path) == ("exclusive", "none", None)
    assert options.connect_timeout_s == 30
    assert options.ceph == CephSettings(user=None, conf=None, cluster=None, pairs=())


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("ro", "read_only", True),
        ("allow_other", "allow_other", True),
        ("nonempty", "nonempty", True),
        ("partitions", "partitions", True),
        ("direct_io", "direct_io", True),
        ("notrim", "trim", False),
        ("abort_on_full", "abort_on_full", True),
        ("sector_size=4096", "sector_size", 4096),
        ("quiet", "quiet", True),
        ("metrics_images", "metrics_images", True),
        *(
            ("metrics=" + address, "metrics", address)
            for address in ("localhost:9", "[::1]:9283", "0.0.0.0:0", "/run/rbdfs/a b.sock")
        ),
        ("manage", "manage", True),
        ("manage", "remove_snapshots", False),
        ("manage=snapshots", "manage", True),
        ("manage=snapshots", "remove_snapshots", True),
        ("manage=snapshots,manage", "remove_snapshots", False),
        *(("snapshots=" + word, "snapshots", word) for word in ("visible", "hidden", "off", "all")),
        *(("lock=" + word, "lock", word) for word in ("exclusive", "auto")),
        *(("cache=" + word, "cache", word) for word in CACHE_MODES),
        *(("datapath=" + word, "data_path", word) for word in ("native", "python")),
        ("data_pool=ec", "data_pool", "ec"),
        ("object_size=4096", "object_size", 4096),
        ("object_size=4K", "object_size", 4096),
        ("object_size=8m", "object_size", 8 << 20),
        ("object_size=32M", "object_size", 32 << 20),
        ("uid=0", "uid", 0),
        ("uid=1000", "uid", 1000),
        ("uid=4294967294", "uid", 2**32 - 2),
        ("gid=36", "gid", 36),
        ("umask=0", "umask", 0),
        ("umask=027", "umask", 0o027),
        ("umask=777", "umask", 0o777),
        ("dmask=066", "dmask", 0o066),
        ("umask=027", "dmask", None),
        ("connect_timeout=5", "connect_timeout_s", 5.0),
        ("connect_timeout=0.25", "connect_timeout_s", 0.25),
        ("connect_timeout=86400", "connect_timeout_s", 86400.0),
    ],
)
def test_an_option_of_the_mount(text: str, name: str, value: Any) -> None:
    options = applied(text)
    assert getattr(options, name) == value


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("id=backup", "user", "backup"),
        ("conf=/etc/ceph/other.conf", "conf", Path("/etc/ceph/other.conf")),
        ("cluster=site-b", "cluster", "site-b"),
        ("mon_host=10.0.0.1", "pairs", (("mon_host", "10.0.0.1"),)),
        (r"mon_host=a\,b", "pairs", (("mon_host", "a,b"),)),
        ("key=AQ==", "pairs", (("key", "AQ=="),)),
    ],
)
def test_an_option_of_ceph(text: str, name: str, value: Any) -> None:
    assert getattr(applied(text).ceph, name) == value


def test_ceph_settings_keep_their_order_and_their_repetitions() -> None:
    before = MountOptions(ceph=CephSettings(pairs=(("mon_host", "a"),)))
    options = apply_options(before, ["rbd_cache=true,keyring=/k", "rbd_cache=false"])
    assert options.ceph.pairs == (
        ("mon_host", "a"),
        ("rbd_cache", "true"),
        ("keyring", "/k"),
        ("rbd_cache", "false"),
    )


def test_the_last_of_a_kind_wins() -> None:
    options = applied("uid=1,id=a,connect_timeout=1", "uid=2,conf=/a", "id=b,uid=3,conf=/b")
    assert (options.uid, options.connect_timeout_s) == (3, 1.0)
    assert (options.ceph.user, options.ceph.conf) == ("b", Path("/b"))
    assert applied("rw,ro").read_only
    assert not applied("ro,rw").read_only, "as mount(8) has it"


def test_what_is_asked_for_comes_before_what_images_say() -> None:
    assert applied("ro").dictated == ()
    options = applied("umask=077", "gid=5")
    assert options.dictated == ("gid", "umask")
    assert apply_options(options, ["uid=0"]).dictated == ("uid", "gid", "umask")
    record = options.record()
    assert MountOptions.from_record(json.loads(json.dumps(record))) == options
    # A keeper of before owners and modes were kept: all its files have those of the mount.
    del record["dictated"]
    assert MountOptions.from_record(record).dictated == ("uid", "gid", "umask")


def test_what_is_not_mentioned_stays() -> None:
    before = MountOptions(source=Source("p"), mountpoint="/m", debug=True, uid=7)
    after = apply_options(before, ["ro,id=x"])
    kept = (after.source, after.mountpoint, after.debug, after.uid)
    assert kept == (Source("p"), "/m", True, 7)
    assert before.ceph.user is None
    assert not before.read_only


def test_what_fstab_and_mount_add_is_accepted() -> None:
    text = "rw,defaults,nosuid,nodev,suid,dev,auto,noauto,user,users,nouser,owner,group,nofail"
    text += ",_netdev,silent,loud,nomand,noiversion,x-systemd.automount,X-mount.mkdir=0700"
    text += ",comment=of whom,user=somebody"
    assert applied(text, "x-systemd.requires=network.target", "", ",,") == MountOptions()


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("noexec,noatime,sync", ("noatime", "noexec", "sync")),
        ("dirsync,lazytime,nodiratime,nosymfollow,relatime,strictatime", None),
        ("noexec,exec,nodiratime,diratime,lazytime,nolazytime,nosymfollow,symfollow", ()),
        ("noatime,atime,relatime,norelatime,strictatime,nostrictatime,sync,async", ()),
    ],
)
def test_what_the_kernel_keeps(text: str, flags: tuple[str, ...] | None) -> None:
    found = applied(text)
    assert found.flags == (tuple(sorted(text.split(","))) if flags is None else flags)
    assert MountOptions.from_record(json.loads(json.dumps(found.record()))) == found
    assert set(found.flags) <= connection.MS_FLAGS.keys()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("mand", "option mand cannot be kept: Linux has no mandatory locks any more"),
        (
            "iversion",
            "option iversion cannot be kept: the kernel counts no versions of files of FUSE",
        ),
        *(
            (
                f"{word}=a:b:c",
                f"option {word} cannot be kept: rbdfs tells the kernel no SELinux context;"
                " its policy for fuse holds",
            )
            for word in ("context", "fscontext", "defcontext", "rootcontext")
        ),
        ("lock=foo", "bad value in option: lock=foo (it takes one of exclusive, transient, auto)"),
        (
            "lock=transiet",
            "bad value in option: lock=transiet: did you mean lock=transient?"
            " (it takes one of exclusive, transient, auto)",
        ),
        (
            "cache",
            "option cache needs a value: cache"
            " (it takes one of none, writethrough, writeback, unsafe)",
        ),
        ("ro=1", "bad value in option: ro=1 (it takes no value)"),
        ("rw=1", "bad value in option: rw=1 (it takes no value)"),
        ("manage=1", "bad value in option: manage=1 (it takes no value, or snapshots)"),
        ("uid=a b", "bad value in option: uid=a b (it takes the number or name of a user)"),
        ("gid=a b", "bad value in option: gid=a b (it takes the number or name of a group)"),
        ("umask=8", "bad value in option: umask=8 (it takes an octal number up to 777)"),
        (
            "object_size=3M",
            "bad value in option: object_size=3M (it takes a power of two from 4K to 32M)",
        ),
        ("nonsense", "unknown option nonsense"),
        ("snapshot", "unknown option snapshot: did you mean snapshots?"),
    ],
)
def test_what_is_said_of_an_option_that_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        applied(text)
    assert (str(caught.value), caught.value.exit_code) == (reason, EXIT_USAGE)


def test_spaces_around_an_option_are_nobodys() -> None:
    assert applied("ro, manage ,uid=7") == applied("ro,manage,uid=7")


def test_users_and_groups_have_names() -> None:
    options = applied("uid=nobody,gid=daemon")
    assert (options.uid, options.gid) == (65534, 1)


def test_a_client_may_be_named_as_ceph_prints_it() -> None:
    for arguments in (["--id", "client.vms"], ["--user", "vms"], ["-n", "client.vms"]):
        assert parse_arguments([*arguments, "rbd", "/mnt"]).ceph.user == "vms"
    for arguments in (["--name=client.vms"], ["-o", "id=client.vms"], ["-o", "id=vms"]):
        assert parse_arguments(["rbd", "/mnt", *arguments]).ceph.user == "vms"


def test_files_of_keys_are_relative_to_where_the_command_is() -> None:
    home = Path("/srv")
    for arguments in (["-k", "a/key"], ["--keyring=a/key"], ["-o", "keyring=a/key"]):
        pairs = parse_arguments([*arguments, "rbd", "/mnt"], home).ceph.pairs
        assert pairs == (("keyring", "/srv/a/key"),)
    found = parse_arguments(["-o", r"keyring=a\,/b\,$home/c,keyfile=d", "rbd", "/mnt"], home)
    assert found.ceph.pairs == (("keyring", "/srv/a,/b,$home/c"), ("keyfile", "/srv/d"))
    found = parse_arguments(["rbd:rbd/vm1:keyring=key", "/mnt"], home)
    assert found.ceph.pairs == (("keyring", "/srv/key"),)


def test_all_pools_in_fstab() -> None:
    plain = parse_arguments(["--all-pools", "/mnt"])
    assert plain.source == Source()
    for arguments in (["rbdfs", "/mnt", "-o", "all_pools"], ["none", "/mnt", "-o", "all_pools"]):
        assert parse_arguments(arguments) == plain
    with pytest.raises(UserError, match=r"^all pools, and rbd too\?$"):
        parse_arguments(["rbd", "/mnt", "-o", "all_pools"])


def test_a_log_and_its_level_in_fstab() -> None:
    options = parse_arguments(["rbd", "/mnt", "-o", "log=/l,debug"])
    assert options == parse_arguments(["rbd", "/mnt", "--log-file=/l", "--debug"])


@pytest.mark.parametrize("name", ["uid", "gid", "umask", "dmask"])
@pytest.mark.parametrize(
    "value",
    ["", "-1", "+1", " 1", "1_0", "0x10", "1.0", "1e3", "nan", "inf", "no such user"]
    + ["4294967295", "9" * 30, "9" * 5000, "\u0663", "\uff11", "\u00b2"],
)
def test_a_bad_number(name: str, value: str) -> None:
    check_refused(f"{name}={value}")


@pytest.mark.parametrize(
    "text",
    ["snapshots=", "snapshots=some", "lock=", "lock=Auto", "lock=none", "cache=", "cache=on"]
    + ["datapath=", "datapath=fast", "data_pool="]
    + [f"object_size={value}" for value in ("", "M", "0", "2K", "64M", "3M", "4097", "-4M", "4 M")]
    + [f"object_size={value}" for value in ("4MB", "1.5M", "\uff14M", "1e6", "4G", "9" * 30 + "M")],
)
def test_a_value_that_an_option_does_not_have(text: str) -> None:
    check_refused(text)


@pytest.mark.parametrize("value", ["8", "099", "1000", "0o22", "-022"])
def test_a_bad_umask(value: str) -> None:
    check_refused(f"umask={value}")


BAD_SECONDS = ["", "0", "-0.0", "-1", "86401", "1e400", "1e-400", "nan", "NaN", "inf", "-inf"]
BAD_SECONDS += ["infinity", "5s", "1_0", "\u0663", "\uff15", "0x10", "9" * 5000]


@pytest.mark.parametrize("value", BAD_SECONDS)
def test_a_bad_number_of_seconds(value: str) -> None:
    check_refused(f"connect_timeout={value}")


@pytest.mark.parametrize(
    "text",
    [
        "nosuchoption",
        "move",
        "RO",
        "ro=1",
        "allow_other=yes",
        "uid",
        "umask",
        "connect_timeout",
        "id",
    ]
    + ["conf", "cluster", "=", "=x", "mon_host=", "r o", "-x"],
)
def test_an_unknown_option(text: str) -> None:
    check_refused(text)


@pytest.mark.parametrize(
    "address",
    ["", "9283", ":9283", "host:", "host:x", "host:65536", "::1:9", "a:b:9", "/" + "x" * 200],
)
def test_a_bad_address(address: str) -> None:
    check_refused(f"metrics={address}")


@pytest.mark.parametrize("text", ["id=", "conf=", "cluster="])
def test_an_empty_value(text: str) -> None:
    check_refused(text)


def check_refused(text: str) -> None:
    """A usage error of one line that names the option, whatever stands before it."""
    with pytest.raises(UserError) as caught:
        applied(f"ro,{text}")
    assert caught.value.exit_code == EXIT_USAGE
    assert text.partition("=")[0] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        ("a", ["a"]),
        ("a,b=c", ["a", "b=c"]),
        (",a,,b,", ["a", "b"]),
        (r"a=b\,c,d", ["a=b,c", "d"]),
        (r"a=b\\,c", ["a=b\\", "c"]),
        (r"a=\\\,", ["a=\\,"]),
        (r"a=\b", ["a=b"]),
        ("a=b\\", ["a=b\\"]),
    ],
)
def test_commas_and_escapes(text: str, parts: list[str]) -> None:
    assert split_options(text) == parts


@given(st.lists(st.text(min_size=1)))
def test_whatever_is_escaped_comes_back(parts: list[str]) -> None:
    escaped = (part.replace("\\", "\\\\").replace(",", "\\,") for part in parts)
    assert split_options(",".join(escaped)) == parts


@pytest.mark.parametrize("cache", CACHE_MODES)
def test_the_cache_mode_has_the_last_word(cache: str) -> None:
    """As QEMU's driver: what the user says of rbd_cache beside it does not count."""
    options = applied(f"rbd_cache=maybe,cache={cache},mon_host=a")
    settings = dict(options.ceph_settings.pairs)
    assert settings["mon_host"] == "a"
    assert settings["rbd_cache"] == ("false" if cache == "none" else "true")
    assert options.ceph.pairs == (("rbd_cache", "maybe"), ("mon_host", "a"))
    held = settings.get("rbd_cache_policy") == "writeback"
    assert held == (cache in ("writeback", "unsafe")), "who holds acknowledged writes in memory"
    at_once = settings.get("rbd_cache_writethrough_until_flush") == "false"
    assert at_once == (cache == "unsafe")


@pytest.mark.parametrize(
    ("text", "seconds"), [("0.2", "1"), ("1", "1"), ("2.5", "3"), ("86400", "86400")]
)
def test_a_timeout_is_whole_seconds_for_ceph(text: str, seconds: str) -> None:
    """Of 16.2 it refuses a part of one, and 0 would be none."""
    assert ("rados_osd_op_timeout", seconds) in applied(f"timeout={text}").ceph_settings.pairs
