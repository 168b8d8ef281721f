"""Image specs and file names: every name has one file name and back."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from rbdfs.errors import NameTooLong
from rbdfs.model.file_name import (
    NAME_MAX,
    SNAP_ID_MAX,
    FileName,
    ImageSpec,
    directory_name,
    file_name,
    parse_directory_name,
    parse_file_name,
    parse_source,
    partition_name,
    split_partition,
)

AWKWARD = st.sampled_from(
    [
        *(bytes([byte]) for byte in b"%/@.:\0-2EF\n"),
        b"id:",
        b"%2F",
        "ü".encode(),
        b"\xff",
        b"-part1",
    ]
)
# Ceph names as the binding gives them: bytes, decoded with surrogateescape.
NAMES = st.one_of(
    st.lists(AWKWARD, min_size=1, max_size=8).map(b"".join), st.binary(min_size=1, max_size=40)
).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
SNAP_IDS = st.integers(1, SNAP_ID_MAX)
FILE_NAMES = st.one_of(
    st.builds(FileName, NAMES),
    st.builds(FileName, NAMES, NAMES),
    st.builds(FileName, NAMES, snap_id=SNAP_IDS),
)


def written(name: FileName) -> bytes:
    return file_name(name.image, name.snap, snap_id=name.snap_id)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (FileName("vm1"), b"vm1"),
        (FileName("vm1", "nightly"), b"vm1@nightly"),
        (FileName("vm1", snap_id=12), b"vm1@id:12"),
        (FileName("vm1", "id:12"), b"vm1@id%3A12"),
        (FileName("vm1", "id:"), b"vm1@id%3A"),
        (FileName("id:12", "x:y"), b"id:12@x:y"),
        (FileName("a/b"), b"a%2Fb"),
        (FileName("a@b"), b"a%40b"),
        (FileName("100%"), b"100%25"),
        (FileName("."), b"%2E"),
        (FileName("..", ".."), b"%2E%2E@%2E%2E"),
        (FileName("..."), b"..."),
        (FileName("nul\0"), b"nul%00"),
        (FileName("größe 1\n"), "größe 1\n".encode()),
        (FileName("gr\udcf6\udcdfe"), b"gr%F6%DFe"),
    ],
)
def test_file_name_of_a_name(name: FileName, expected: bytes) -> None:
    assert written(name) == expected
    assert parse_file_name(expected) == name


@given(FILE_NAMES)
def test_file_name_and_back(name: FileName) -> None:
    text = written(name)
    assert parse_file_name(text) == name
    assert b"/" not in text
    assert b"\0" not in text
    assert text not in (b".", b"..")
    text.decode()  # valid UTF-8


@given(FILE_NAMES, FILE_NAMES)
def test_different_names_have_different_file_names(one: FileName, other: FileName) -> None:
    assert (written(one) == written(other)) == (one == other)


@given(st.one_of(st.lists(AWKWARD, max_size=8).map(b"".join), st.binary(max_size=20)))
@example(b"a@id:1")
def test_what_parses_is_the_one_file_name(text: bytes) -> None:
    try:
        name = parse_file_name(text)
    except ValueError:
        return
    assert written(name) == text


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"@",
        b"@snap",
        b"vm1@",
        b"vm1@a@b",
        b"%41",
        b"%2f",
        b"a%",
        b"a%4",
        b"a%GG",
        b"100%25%",
        b"%C3%A9",
        b"\xff",
        b"\xed\xb3\xbf",
        b".",
        b"..",
        b"vm1@..",
        b"%2E.",
        b"a%2Eb",
        b"a/b",
        b"a\0",
        b"vm1@id:",
        b"vm1@id:0",
        b"vm1@id:007",
        b"vm1@id:x",
        b"vm1@id:18446744073709551614",
        b"vm1@a%3Ab",
        b"id%3A1",
    ],
)
def test_not_a_file_name(text: bytes) -> None:
    with pytest.raises(ValueError, match="name") as caught:
        parse_file_name(text)
    assert not isinstance(caught.value, NameTooLong)


@pytest.mark.parametrize(
    ("image", "snap", "snap_id"),
    [("", None, None), ("vm1", "", None), ("vm1", "s", 1), ("vm1", None, 0), ("vm1", None, 2**64)],
)
def test_name_without_a_file_name(image: str, snap: str | None, snap_id: int | None) -> None:
    with pytest.raises(ValueError, match="name|id"):
        file_name(image, snap, snap_id=snap_id)


def test_longest_file_name() -> None:
    assert len(file_name("v" * NAME_MAX)) == NAME_MAX
    assert parse_file_name(b"v" * NAME_MAX).image == "v" * NAME_MAX
    for image, snap in [
        ("v" * 256, None),
        ("ü" * 128, None),
        ("@" * 86, None),
        ("v" * 250, "s" * 5),
    ]:
        with pytest.raises(NameTooLong):
            file_name(image, snap)
    with pytest.raises(NameTooLong):
        parse_file_name(b"v" * 256)
    with pytest.raises(NameTooLong):
        directory_name("n" * 255, alias=True)
    with pytest.raises(NameTooLong):
        parse_directory_name(b"n" * 256)
    with pytest.raises(NameTooLong):
        partition_name(b"v" * 250, 1)


@given(NAMES, st.booleans())
def test_directory_name_and_back(name: str, alias: bool) -> None:
    text = directory_name(name, alias=alias)
    assert parse_directory_name(text) == (name, alias)
    assert b"/" not in text
    assert text not in (b".", b"..")
    if alias:
        # An alias is never taken for an image.
        with pytest.raises(ValueError, match="empty"):
            parse_file_name(text)
    else:
        assert text == file_name(name)


@pytest.mark.parametrize("text", [b"", b"@", b"@@a", b"a@b", b"@..", b"."])
def test_not_a_directory_name(text: bytes) -> None:
    with pytest.raises(ValueError, match="name"):
        parse_directory_name(text)


def test_directory_without_a_name() -> None:
    with pytest.raises(ValueError, match="empty"):
        directory_name("", alias=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"vm1-part1", (b"vm1", 1)),
        (b"vm1@daily-part12", (b"vm1@daily", 12)),
        (b"a-part1-part2", (b"a-part1", 2)),
        (b"a\n-part255", (b"a\n", 255)),
        (b"vm1", None),
        (b"vm1-part", None),
        (b"vm1-part0", None),
        (b"vm1-part01", None),
        (b"vm1-part1\n", None),
        (b"vm1-part1x", None),
        (b"vm1-part1000", None),
        ("vm1-part\u0661".encode(), None),
        (b"-part1", None),
    ],
)
def test_split_partition(name: bytes, expected: tuple[bytes, int] | None) -> None:
    assert split_partition(name) == expected
    if expected:
        assert partition_name(*expected) == name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rbd", ("rbd", "")),
        ("rbd/", ("rbd", "")),
        ("rbd/tenant-a", ("rbd", "tenant-a")),
        ("rbd/tenant-a/", ("rbd", "tenant-a")),
        ("r b:d/ü@%41", ("r b:d", "ü@%41")),
    ],
)
def test_source(text: str, expected: tuple[str, str]) -> None:
    assert parse_source(text) == expected


@pytest.mark.parametrize("text", ["", "/", "//", "rbd//", "/ns", "rbd/ns/vm1", "rbd//vm1"])
def test_not_a_source(text: str) -> None:
    with pytest.raises(ValueError, match=r"POOL/NAMESPACE"):
        parse_source(text)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (ImageSpec("rbd", "", "vm1"), "rbd/vm1"),
        (ImageSpec("rbd", "ns", "vm1", "daily"), "rbd/ns/vm1@daily"),
        (ImageSpec("rbd", "", "a/b", "id:1"), "rbd/a%2Fb@id%3A1"),
        (ImageSpec("rbd", "", "vm1", snap_id=4), "rbd/vm1@id:4"),
        (ImageSpec("rbd", "", "two\nlines\udcff"), "rbd/two%0Alines%FF"),
    ],
)
def test_text_of_a_spec(spec: ImageSpec, text: str) -> None:
    assert str(spec) == text


@given(NAMES, NAMES, FILE_NAMES)
def test_text_of_a_spec_is_its_path(pool: str, namespace: str, name: FileName) -> None:
    text = str(ImageSpec(pool, namespace, name.image, name.snap, name.snap_id))
    assert not re.search(r"[\x00-\x1f\x7f]", text)
    assume(not re.search(r"[\x00-\x1f\x7f]", pool + namespace + name.image + (name.snap or "")))
    path = directory_name(pool) + b"/" + directory_name(namespace) + b"/" + written(name)
    assert text.encode() == path


@given(NAMES)
def test_surrogates_that_spell_utf8_are_the_same_name(name: str) -> None:
    raw = name.encode("utf-8", "surrogateescape")
    spelled = "".join(chr(0xDC00 + byte) if byte >= 0x80 else chr(byte) for byte in raw)
    assert file_name(spelled) == file_name(name)
