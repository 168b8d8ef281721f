"""contrib/recipes: each recipe is in the index, and all that they say is run word for word."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.recipes import RECIPES, recipes, sections

# It takes systemd as process 1.
NOT_RUN = "Start it"


def test_every_recipe_is_in_the_index() -> None:
    index = (RECIPES / "README.md").read_text()
    listed = re.findall(r"^\| \[(.*?)\]\((.*?)\) \|", index, re.MULTILINE)
    assert all(text == target for text, target in listed)
    assert sorted(target for _, target in listed) == [f"{name}.md" for name in recipes()]


def test_every_block_is_run() -> None:
    """Each heading that has a block is named in a test, and no block is in another language."""
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    for recipe in recipes():
        assert f'"{recipe}"' in tests
        fences = re.findall(r"^ *```.*", (RECIPES / f"{recipe}.md").read_text(), re.MULTILINE)
        assert set(fences) == {"```sh", "```"}
        for heading in sections(recipe):
            run = f'"{heading}"' in tests
            assert run or heading == NOT_RUN, f"{recipe}: {heading}"
