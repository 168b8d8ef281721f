"""The mark of an image that is longer than its file, for whoever comes after a crash of the host.

It is image-meta, which stays when the image is resized, and is copied with it (`rbd cp`, `rbd
clone`): so it says of which image it is, and which sizes that has had of the growth itself. An
image that has another size has it from somebody who wanted it so, and is not cut.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TEXT = re.compile(r"(\d{1,19}) (\d{1,19}) (\d{1,19}) ([0-9a-zA-Z]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class GrowthMark:
    """What is known of a file that grows, in bytes.

    Attributes:
        length: how long it is at least.
        size, room: how long its image is, before it is resized and after that.
    """

    length: int
    size: int
    room: int

    def text(self, image_id: str) -> str:
        """Return the mark as the image with *image_id* has it."""
        return f"{self.length} {self.size} {self.room} {image_id}"


def length_marked(text: str, image_id: str, size: int) -> int | None:
    """Return how long the file at least is of the image with *image_id*, *size* bytes long now.

    None where *text* is no mark of this image as it is: anybody may set image-meta.
    """
    found = _TEXT.fullmatch(text)
    if found is None or found[4] != image_id or size not in (int(found[2]), int(found[3])):
        return None
    return int(found[1])
