"""Names of what is to be made: what cannot be one is an error, and not ENOENT as in a look-up."""

from __future__ import annotations

from rbdfs.errors import BadArgument, NameTooLong
from rbdfs.model.file_name import FileName, parse_directory_name, parse_file_name


def parse_new(name: bytes) -> FileName:
    """Return what file name *name* means; raise OSError EINVAL or ENAMETOOLONG."""
    try:
        wanted = parse_file_name(name)
    except NameTooLong:
        raise
    except ValueError as exc:
        raise BadArgument(str(exc)) from exc
    # The binding would cut the name there.
    if "\0" in wanted.image or "\0" in (wanted.snap or ""):
        raise BadArgument(f"NUL in {name!r}")
    return wanted


def parse_new_namespace(name: bytes, action: str) -> str:
    """Return the namespace that directory name *name* means; raise as parse_new() does."""
    try:
        namespace = parse_directory_name(name)[0]
        # librados takes no other for an I/O context.
        namespace.encode()
    except NameTooLong as exc:
        raise NameTooLong(f"{action}: {exc}") from exc
    except ValueError as exc:
        raise BadArgument(f"{action}: {exc}") from exc
    if "\0" in namespace:
        raise BadArgument(f"{action}: NUL in a name")
    return namespace
