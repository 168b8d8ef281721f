"""The manual pages rbdfs(8) and mount.fuse.rbdfs(8), made of the tables in rbdfs/config."""

from __future__ import annotations

from typing import TYPE_CHECKING

from documenting.roff import (
    escaped,
    example,
    form,
    head,
    item,
    marked,
    page,
    paragraph,
    section,
    subsection,
)
from rbdfs.config.commands import COMMANDS, DESCRIPTION, EXIT_CODES, HELP, SUMMARY, VERSION
from rbdfs.config.option_texts import ESCAPES, GROUPS, IGNORED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from documenting.roff import Release
    from rbdfs.config.option_texts import Option


PATHS = {
    "`POOL`": "`IMAGE`[`@SNAP`], `NAMESPACE/IMAGE`[`@SNAP`]",
    "`POOL/NAMESPACE`": "`IMAGE`[`@SNAP`]",
    "`--all-pools`": "`POOL/`[`NAMESPACE/`]`IMAGE`[`@SNAP`], for the pools with the rbd "
    "application",
    "`rbd:...`": "nothing: FILE is the image",
}
FILES = {
    "`/etc/ceph/ceph.conf`": "Ceph's configuration, where `-c` and CEPH_CONF name no other one",
    "`/run/rbdfs`": "where the keepers of root's mounts, and those of `rbdfs@.service`, listen for "
    "`rbdfs status` and its like; a user's are in `$XDG_RUNTIME_DIR/rbdfs`, or without one in "
    "`/tmp/rbdfs-UID`",
    "`/etc/rbdfs/NAME.conf`": "SOURCE and OPTIONS of the mount that `rbdfs@NAME.service` makes; "
    "NAME is the mount point as systemd-escape(1) has it",
    "`/etc/fuse.conf`": "has to say `user_allow_other` where a user mounts with `-o allow_other`",
}
ENVIRONMENT = {
    "`CEPH_CONF`": "the configuration file, where `-c` names none",
    "`NOTIFY_SOCKET`": "is told when the mount can be used, as sd_notify(3) has it",
}
_MOUNTED = (
    "rbdfs leaves two processes. The keeper holds the kernel's connection, and what a new server "
    "needs to go on; the server does the work. Where the server is killed, crashes, or is replaced "
    "(`rbdfs restart`), the next one goes on with the files that are open.",
    "What the files can do is in `rbdfs-files`(7), what happens when something fails in "
    "`rbdfs-failures`(7), and how to mount at boot and for virtual machines in `rbdfs-service`(7).",
)
_EXAMPLES = """\
rbdfs rbd /mnt                                  # a pool
mount -o loop,ro,noload /mnt/vm1@nightly /srv   # a file system in a snapshot
cp --sparse=always /mnt/vm1@nightly /backup     # a copy without its zeros
rbdfs --id vms -o ro,snapshots=hidden --all-pools /mnt
rbdfs rbd:rbd/vm1 /srv/disk                     # one image, on a file
"""
_FSTAB = """\
rbd  /srv/rbd  fuse.rbdfs  _netdev,id=vms,snapshots=hidden  0  0
rbd  /srv/vms  fuse.rbdfs  _netdev,noauto,x-systemd.automount,manage,allow_other  0  0
"""


def rbdfs(release: Release) -> str:
    """The page of the program."""
    return page(
        [
            *head("rbdfs", 8, SUMMARY, release),
            *_synopsis(
                f"rbdfs {'[mount]' if name == 'mount' else name} {each}"
                for name, command in COMMANDS.items()
                for each in command.forms
            ),
            section("description"),
            paragraph(DESCRIPTION),
            paragraph("Below the mount point of SOURCE is:"),
            *_items(PATHS),
            *map(paragraph, _MOUNTED),
            section("commands"),
            *_commands(),
            section("options"),
            *_options((HELP, VERSION)),
            *(part for title, group in GROUPS.items() for part in _group(title, group)),
            paragraph(f"{IGNORED} {ESCAPES}"),
            section("exit status"),
            *_items({f"`{code}`": text for code, text in EXIT_CODES.items()}),
            section("environment"),
            *_items(ENVIRONMENT),
            section("files"),
            *_items(FILES),
            section("examples"),
            example(_EXAMPLES),
            *_see_also(
                ("fusermount3", 1),
                ("ceph.conf", 5),
                ("rbdfs-failures", 7),
                ("rbdfs-files", 7),
                ("rbdfs-service", 7),
                ("mount.fuse.rbdfs", 8),
                ("rbd", 8),
            ),
        ]
    )


def mount(release: Release) -> str:
    """The page of the file system, for mount(8) and fstab(5)."""
    groups = {title: [option for option in group if option.word] for title, group in GROUPS.items()}
    return page(
        [
            *head("mount.fuse.rbdfs", 8, SUMMARY, release),
            *_synopsis(["mount -t fuse.rbdfs [-o OPTION[,OPTION]...] SOURCE MOUNTPOINT"]),
            section("description"),
            paragraph(
                "mount(8) mounts a Ceph pool with `rbdfs`, which mount.fuse3(8) finds where it "
                "looks for programs. SOURCE is that of rbdfs(8), but not all pools: POOL, "
                "POOL/NAMESPACE, or the name that QEMU has for an image, `rbd:POOL/IMAGE`."
            ),
            paragraph("In fstab(5):"),
            example(_FSTAB),
            paragraph(
                "What is mounted so is served as root. `umount` and `rbdfs umount` end it. "
                "mount(8) tells of a failure with the line that rbdfs has written, and an exit "
                "code of its own."
            ),
            section("options"),
            *(part for title, group in groups.items() for part in _group(title, group, word=True)),
            paragraph(IGNORED),
            *_see_also(
                ("fstab", 5), ("rbdfs-service", 7), ("mount", 8), ("mount.fuse3", 8), ("rbdfs", 8)
            ),
        ]
    )


def _synopsis(forms: Iterable[str]) -> Iterator[str]:
    yield section("synopsis")
    for number, each in enumerate(forms):
        yield f"{'.br' + chr(10) if number else ''}{form(each)}\n"


def _commands() -> Iterator[str]:
    for name, command in COMMANDS.items():
        yield subsection(f"rbdfs {name}")
        yield paragraph(f"{command.summary[0].upper()}{command.summary[1:]}.")
        yield from map(paragraph, command.paragraphs)
        yield from _options(command.options)


def _group(title: str, options: Iterable[Option], *, word: bool = False) -> Iterator[str]:
    options = list(options)
    if options:
        yield subsection(title)
        yield from _options(options, word=word)


def _options(options: Iterable[Option], *, word: bool = False) -> Iterator[str]:
    """The options; with *word*, as they stand in fstab."""
    for option in options:
        forms = (option.forms[-1].removeprefix("-o "),) if word else option.forms
        default = f" (default: {option.default})" if option.default else ""
        yield item(", ".join(map(form, forms)), option.text + default)


def _items(texts: dict[str, str]) -> Iterator[str]:
    for label, text in texts.items():
        yield item(marked(label), text)


def _see_also(*pages: tuple[str, int]) -> Iterator[str]:
    yield section("see also")
    yield ",\n".join(rf"\fB{escaped(name, literal=True)}\fR({number})" for name, number in pages)
    yield "\n"
