"""The command line of contrib/document."""

from __future__ import annotations

import argparse
import re
from email.utils import parsedate_to_datetime
from pathlib import Path

from documenting import completion, manual, page, readme, reference
from documenting.roff import Release

CHECKOUT = Path(__file__).resolve().parents[2]
MAN = CHECKOUT / "contrib/man"
# The pages that are written by hand, which are made into pages for man(1) beside them.
WRITTEN = ("rbdfs-failures.7.md", "rbdfs-files.7.md", "rbdfs-service.7.md")
_RELEASE = re.compile(r"^rbdfs \((?P<version>[^)]+)\).*?^ -- .*?, (?P<date>.+)", re.M | re.S)


def documents() -> dict[Path, str]:
    """What is to be in which file of the checkout."""
    # Of the last release, as Debian's package has it.
    found = _RELEASE.search((CHECKOUT / "contrib/debian/changelog").read_text())
    assert found is not None
    date = parsedate_to_datetime(found["date"].partition("\n")[0]).date()
    release = Release(found["version"], date.isoformat())
    written = [page.parse((MAN / name).read_text()) for name in WRITTEN]
    return {
        **{MAN / each.file_name: each.roff(release) for each in written},
        MAN / "rbdfs.8": manual.rbdfs(release),
        MAN / "rbdfs.8.md": reference.rbdfs(),
        MAN / "mount.fuse.rbdfs.8": manual.mount(release),
        CHECKOUT / "contrib/completion/rbdfs.bash": completion.bash(),
        CHECKOUT / "contrib/completion/_rbdfs": completion.zsh(),
        CHECKOUT / "contrib/completion/rbdfs.fish": completion.fish(),
        CHECKOUT / "README.md": readme.with_commands((CHECKOUT / "README.md").read_text()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="contrib/document",
        description="Write the manual pages in contrib/man, the completions in contrib/completion "
        "and README's table of commands, of the tables in rbdfs/config that --help is made of, and "
        "of the pages that are written by hand as Markdown in contrib/man. To be run when these "
        "have changed, and committed with them; a test compares.",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 where something differs"
    )
    check = parser.parse_args().check
    differing = {
        path: text
        for path, text in documents().items()
        if not path.exists() or path.read_text() != text
    }
    for path, text in differing.items():
        print(path.relative_to(CHECKOUT))
        if not check:
            path.write_text(text)
    return int(check and bool(differing))
