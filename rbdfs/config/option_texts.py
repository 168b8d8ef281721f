"""What every option of a mount means, its default and its group: for --help and the manual.

Read when somebody asks, and not by a mount. What an option does when it is given is in
command_line and mount_options. In a text, backquotes are around what is typed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Option:
    """One option, in all the ways to say it.

    Attributes:
        text: what it means, and why.
        default: "" where none is to be told.
        switches: as in `-c FILE`.
        word: as in `-o conf=FILE`, "" where there is none.
        value: the name of its value, "" for a flag.
        choices: its values, where these are all there are.
        kind: what its value is, for completion: file, pool or nothing.
    """

    text: str
    default: str = ""
    switches: tuple[str, ...] = ()
    word: str = ""
    value: str = ""
    choices: tuple[str, ...] = ()
    kind: str = ""

    @property
    def gist(self) -> str:
        """How its text begins, which says enough beside its name."""
        return re.split(r"[.,;:]( |$)| \(", self.text)[0].replace("`", "")

    @property
    def takes(self) -> str:
        """What stands for the value."""
        return "|".join(self.choices) or self.value

    @property
    def forms(self) -> tuple[str, ...]:
        """The ways to say it, with the value behind the last switch and behind the word."""
        switches = list(self.switches)
        if switches and self.takes:
            switches[-1] += f" {self.takes}"
        word = f"-o {self.word}" + (f"={self.takes}" if self.takes else "")
        return (*switches, *([word] if self.word else []))


VALUES = {
    "ADDRESS": "HOST:PORT, or the path of a socket",
    "FILE": "a path",
    "GROUP": "the number or name of a group",
    "HOST": "addresses, between spaces or commas",
    "ID": "the id of a client of Ceph",
    "LEVEL": "one of debug, info, warning, error",
    "MASK": "an octal number up to 777",
    "NAME": "a word",
    "POOL": "the name of a pool",
    "SECONDS": "a number of seconds, up to 86400",
    "SIZE": "a power of two from 4K to 32M",
    "USER": "the number or name of a user",
}
"""What stands for a value, in words."""

GROUPS: dict[str, tuple[Option, ...]] = {
    "The cluster": (
        Option(
            "the configuration file; one that is named must be readable",
            "Ceph's default places",
            ("-c", "--conf"),
            "conf",
            "FILE",
            kind="file",
        ),
        Option(
            "connect as `client.ID`; `client.` may stand before it",
            "`admin`",
            ("--id", "--user", "-n", "--name"),
            "id",
            "ID",
        ),
        Option(
            "the file with the key",
            "from the configuration",
            ("-k", "--keyring"),
            "keyring",
            "FILE",
            kind="file",
        ),
        Option("addresses of the monitors", "from the configuration", ("-m",), "mon_host", "HOST"),
        Option("stands in Ceph's default paths", "`ceph`", ("--cluster",), "cluster", "NAME"),
        Option(
            "any setting of Ceph, after the configuration file; one that Ceph does not know is an "
            "error. `key=` is overwritten in what `ps` shows as soon as rbdfs runs, and is in no "
            "log; a keyring was never there",
            word="KEY",
            value="VALUE",
        ),
        Option(
            "how long reaching the cluster may take, in seconds. Ceph's own is 300, too long for "
            "a boot",
            "30",
            ("--connect-timeout",),
            "connect_timeout",
            "SECONDS",
        ),
    ),
    "What is shown": (
        Option(
            "every pool for rbd, each as a directory, instead of one SOURCE. In fstab the source "
            "is `rbdfs` then",
            switches=("--all-pools",),
            word="all_pools",
        ),
        Option(
            "which snapshots are files. `hidden`: found by name, not listed, so that recursive "
            "tools do not copy everything twice; `off`: none; `all`: by id too (`vm1@id:4`)",
            "`visible`",
            word="snapshots",
            choices=("visible", "hidden", "off", "all"),
        ),
        Option(
            "partitions are files too: `vm1-part1`, where no image, snapshot or namespace has "
            "that name",
            "off",
            word="partitions",
        ),
        Option(
            "that of disks with an MBR partition table, which does not tell it (a GPT does, and "
            "so does an MBR with logical partitions). 4096 is for disks that QEMU had with "
            "`logical_block_size=4096`",
            "512",
            word="sector_size",
            choices=("512", "4096"),
        ),
    ),
    "Who may do what": (
        Option("nothing can be written", "off", ("-r", "--read-only"), "ro"),
        Option(
            "who may write. `exclusive`: whoever opens an image for writing keeps its exclusive "
            "lock until the last close; it is EBUSY for others. `transient`: the same, but "
            "clients of librbd that want to write meanwhile wait for that close instead of "
            "failing with EROFS, so keep such files open for a moment only. It takes the librbd "
            "of Ceph 20.2.1 or later. `auto`: librbd passes the lock between writers that "
            "cooperate",
            "`exclusive`",
            word="lock",
            choices=("exclusive", "transient", "auto"),
        ),
        Option(
            "other users may use the mount, as the permissions allow", "off", word="allow_other"
        ),
        Option(
            "the owner of all files, by number or name. One that is given comes before what chown "
            "has asked for",
            "the mounting user",
            word="uid",
            value="USER",
        ),
        Option("their group, likewise", "the mounting user's", word="gid", value="GROUP"),
        Option(
            "what others may not do, in octal: images are 0600 with 077, snapshots 0400, "
            "directories 0700. One that is given comes before what chmod has asked for",
            "077",
            word="umask",
            value="MASK",
        ),
        Option(
            "umask of directories alone: `dmask=066` lets others reach files whose names they know",
            "as umask",
            word="dmask",
            value="MASK",
        ),
        Option(
            "chmod and chown that cannot be kept succeed and change nothing, as on vfat: for "
            "programs that insist, as `rsync -a` does",
            "off",
            word="quiet",
        ),
    ),
    "Managing images": (
        Option(
            "images can be made, removed (to the RBD trash), renamed, moved and shrunk. Off, "
            "because `rm -r` on a mount would mean every disk",
            "off",
            word="manage",
        ),
        Option(
            "`manage`, and snapshots can be removed too: for good, no trash keeps them, and "
            "`rsync --delete`, `find -delete`, `rm -r` take them before their images",
            "off",
            word="manage",
            choices=("snapshots",),
        ),
        Option(
            "the data pool of images that are made or moved",
            "the cluster's",
            word="data_pool",
            value="POOL",
            kind="pool",
        ),
        Option(
            "the size of objects of images that are made, as `4M`",
            "the cluster's",
            word="object_size",
            value="SIZE",
        ),
    ),
    "Reading and writing": (
        Option(
            "librbd's cache. `none`: an acknowledged write is on the OSDs. `writethrough` caches "
            "reads, `writeback` may hold writes until fsync. `unsafe` is writeback without "
            "waiting for a first flush",
            "`none`",
            word="cache",
            choices=("none", "writethrough", "writeback", "unsafe"),
        ),
        Option("no page cache of the kernel", "off", word="direct_io"),
        Option("discards are refused (EOPNOTSUPP)", "off", word="notrim"),
        Option(
            "how long a request may take, in whole seconds (`2.5` is 3). One that takes longer "
            "fails with ETIMEDOUT, and so does the file until it is opened anew, because such a "
            "write may still land. Off: requests wait, as on any block device",
            "off",
            word="timeout",
            value="SECONDS",
        ),
        Option(
            "what has no room fails with ENOSPC, where a pool is full or has reached its quota. "
            "Off: it waits for room, as on any block device of Ceph",
            "off",
            word="abort_on_full",
        ),
        Option(
            "who answers reads and writes: C, or Python (which cannot discard or seek, and has no "
            "keeper)",
            "native if it was built",
            word="datapath",
            choices=("native", "python"),
        ),
    ),
    "The mount": (
        Option("allow a mount point with files in it, which it would hide", "off", word="nonempty"),
        Option("do not go to the background", "off", ("-f", "--foreground")),
        Option(
            "the log: made with mode 0640, also after a rotation. (`-o log_file=` is a setting of "
            "Ceph, for the log of its library)",
            "the journal, else syslog; stderr with `-f`",
            ("--log-file",),
            "log",
            "FILE",
            kind="file",
        ),
        Option(
            "the least that is logged: `debug` (each request, with `off~len`, result and time), "
            "`info`, `warning` or `error`",
            "`info`",
            ("--log-level",),
            "log_level",
            "LEVEL",
        ),
        Option(
            "let Prometheus scrape the mount, at `HOST:PORT` or a Unix socket (`/PATH`); anybody "
            "who reaches it may. It takes the package python3-prometheus-client (with pip "
            "`rbdfs[metrics]`)",
            "off",
            ("--metrics",),
            "metrics",
            "ADDRESS",
        ),
        Option("a series for each image, and not only for each pool", "off", word="metrics_images"),
        Option("as `--log-level debug`", "off", ("-d", "--debug"), "debug"),
    ),
}
IGNORED = (
    "The options of mount(8) that the kernel keeps (`noexec`, `noatime`, `sync` and their like) "
    "reach it, and those of fstab that say nothing here (`noauto`, `_netdev`, `x-...`) are "
    "accepted. Every mount is nosuid and nodev. `mount -o remount,ro MOUNTPOINT`, and `rw` again, "
    "is refused while files are open for writing; what takes a new mount says so."
)
ESCAPES = "In a value, `\\,` is a comma and `\\\\` a backslash."


def options() -> tuple[Option, ...]:
    """Return all of them, in the order of their groups."""
    return tuple(option for group in GROUPS.values() for option in group)
