"""QEMU's rbd: file name: QEMU's own cases, and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbdfs.model.qemu_filename import QemuFileName, format_qemu_filename, parse_qemu_filename

NAMES = st.text(alphabet="ab\\:@/=,.\udcff ü", min_size=1, max_size=8)
TEXTS = st.text(alphabet="ab\\:@/=,.\udcff ü", max_size=8)
OPTION = st.tuples(TEXTS.filter(lambda key: key not in ("id", "conf")), TEXTS)
QEMU_FILE_NAMES = st.builds(
    QemuFileName,
    pool=NAMES,
    image=NAMES,
    namespace=TEXTS,
    snap=st.none() | NAMES,
    id=st.none() | TEXTS,
    conf=st.none() | TEXTS,
    options=st.lists(OPTION, max_size=4).map(tuple),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rbd:rbd/vm1", QemuFileName("rbd", "vm1")),
        (
            "rbd:rbd/ns1/vm1@daily:id=backup",
            QemuFileName("rbd", "vm1", "ns1", "daily", id="backup"),
        ),
        # tests/qemu-iotests/231
        ("rbd:rbd/bogus:conf=/tmp/c.conf", QemuFileName("rbd", "bogus", conf="/tmp/c.conf")),
        (r"rbd:rbd/aa\/bb:conf=c", QemuFileName("rbd", "aa/bb", conf="c")),
        (r"rbd:rbd/aa\/bb", QemuFileName("rbd", "aa/bb")),
        (r"rbd:rbd/vm\@1:conf=/etc/a.conf", QemuFileName("rbd", "vm@1", conf="/etc/a.conf")),
        (
            r"rbd:rbd/vm1:mon_host=10.0.0.1\:6789:keyring=/k\@x",
            QemuFileName(
                "rbd", "vm1", options=(("mon_host", "10.0.0.1:6789"), ("keyring", "/k@x"))
            ),
        ),
        # Later slashes stay in the image name, as does an empty namespace out of it.
        ("rbd:rbd/ns/a/b", QemuFileName("rbd", "a/b", "ns")),
        ("rbd:rbd//a", QemuFileName("rbd", "a")),
        (r"rbd:r\/b\d/vm1", QemuFileName("r/bd", "vm1")),
        (r"rbd:rbd/n\/s/vm1", QemuFileName("rbd", "vm1", "n/s")),
        # An unescaped `@` anywhere ends the image name, in an option too.
        ("rbd:rbd/vm1:key=a@b", QemuFileName("rbd", "vm1:key=a", snap="b")),
        ("rbd:rbd/vm1@a@b:k=v@w", QemuFileName("rbd", "vm1", snap="a@b", options=(("k", "v@w"),))),
        ("rbd:rbd/vm1@a/b", QemuFileName("rbd", "vm1", snap="a/b")),
        (r"rbd:rbd/vm1@a\:b", QemuFileName("rbd", "vm1", snap="a:b")),
        # A key goes up to the next `=`, across `:`; in a value `=` is free.
        ("rbd:rbd/vm1:foo:bar=1", QemuFileName("rbd", "vm1", options=(("foo:bar", "1"),))),
        ("rbd:rbd/vm1:k=a=b:l=", QemuFileName("rbd", "vm1", options=(("k", "a=b"), ("l", "")))),
        (r"rbd:rbd/vm1:k\=l=v", QemuFileName("rbd", "vm1", options=(("k=l", "v"),))),
        ("rbd:rbd/vm1:k=v:k=w", QemuFileName("rbd", "vm1", options=(("k", "v"), ("k", "w")))),
        (
            "rbd:rbd/vm1:id=a:k=v:id=b:conf=",
            QemuFileName("rbd", "vm1", id="b", conf="", options=(("k", "v"),)),
        ),
        (r"rbd:rbd/vm1:i\d=a", QemuFileName("rbd", "vm1", id="a")),
        # A lone backslash at the end is kept; a pair is one.
        ("rbd:rbd/vm1\\", QemuFileName("rbd", "vm1\\")),
        (r"rbd:rbd/vm1\\", QemuFileName("rbd", "vm1\\")),
        (r"rbd:rbd/vm1\\@s", QemuFileName("rbd", "vm1\\", snap="s")),
        ("rbd:rbd/vm1:k=v\\", QemuFileName("rbd", "vm1", options=(("k", "v\\"),))),
        ("rbd:rbd/a,b", QemuFileName("rbd", "a,b")),
    ],
)
def test_parse(text: str, expected: QemuFileName) -> None:
    assert parse_qemu_filename(text) == expected
    assert parse_qemu_filename(format_qemu_filename(expected)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must start"),
        ("rbd/vm1", "must start"),
        ("RBD:rbd/vm1", "must start"),
        ("rbd:", "a pool name is required, as in rbd:POOL/IMAGE"),
        ("rbd:rbd", "a pool name is required, as in rbd:POOL/IMAGE"),
        (r"rbd:rbd\/vm1", "a pool name is required, as in rbd:POOL/IMAGE"),
        ("rbd:rbd/vm1:", "has no value"),
        ("rbd:rbd/vm1:foo", "has no value"),
        ("rbd:rbd/vm1:a=b:", "has no value"),
        (r"rbd:rbd/vm1:a\=b", "has no value"),
        ("rbd:/vm1", "empty"),
        ("rbd:rbd/", "empty"),
        ("rbd:rbd/ns/", "empty"),
        ("rbd:rbd/@snap", "empty"),
        ("rbd:rbd/vm1@", "empty"),
        ("rbd:rbd/vm1@:k=v", "empty"),
    ],
)
def test_not_a_qemu_filename(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_qemu_filename(text)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (QemuFileName("rbd", "a/b"), r"rbd:rbd/a\/b"),
        (
            QemuFileName("rbd", "vm@1", "ns", "s:1", "me", "/c", (("mon_host", "a:1,b=2"),)),
            r"rbd:rbd/ns/vm\@1@s\:1:id=me:conf=/c:mon_host=a\:1,b=2",
        ),
        (QemuFileName("rbd", "a", options=(("k=@:", "\\"),)), r"rbd:rbd/a:k\=\@\:=\\"),
    ],
)
def test_format(name: QemuFileName, expected: str) -> None:
    assert format_qemu_filename(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        QemuFileName("", "a"),
        QemuFileName("rbd", ""),
        QemuFileName("rbd", "a", snap=""),
        QemuFileName("rbd", "a\0"),
        QemuFileName("rbd", "a", options=(("id", "me"),)),
        QemuFileName("rbd", "a", options=(("conf", "/c"),)),
    ],
)
def test_nothing_to_write(name: QemuFileName) -> None:
    with pytest.raises(ValueError, match="empty|NUL|field"):
        format_qemu_filename(name)


@given(QEMU_FILE_NAMES)
def test_format_and_back(name: QemuFileName) -> None:
    assert parse_qemu_filename(format_qemu_filename(name)) == name


@given(st.text(alphabet="a\\:@/=id", max_size=20))
def test_what_parses_can_be_written(rest: str) -> None:
    """Only ValueError is raised, and writing what was read changes nothing."""
    try:
        name = parse_qemu_filename("rbd:" + rest)
    except ValueError:
        return
    assert parse_qemu_filename(format_qemu_filename(name)) == name
