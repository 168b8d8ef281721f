"""The mark of an image that is longer than its file."""

from __future__ import annotations

import pytest

from rbdfs.model.growth_mark import GrowthMark, length_marked

TEXT = GrowthMark(length=5, size=64, room=128).text("10ab")


@pytest.mark.parametrize("size", [64, 128])
def test_of_this_image_as_it_is(size: int) -> None:
    """The host may have crashed before the image was resized, or after that."""
    assert length_marked(TEXT, "10ab", size) == 5


@pytest.mark.parametrize(
    ("text", "image_id", "size"),
    [
        (TEXT, "10ac", 64),
        (TEXT, "10ab", 65),
        (TEXT + " ", "10ab", 64),
        ("5", "10ab", 5),
        ("-5 64 128 10ab", "10ab", 64),
        ("\u0665 64 128 10ab", "10ab", 64),
        ("", "10ab", 0),
    ],
)
def test_of_another_one_or_of_what_was_resized_since(text: str, image_id: str, size: int) -> None:
    assert length_marked(text, image_id, size) is None
