"""The words that rbdfs begins with, and what each does: for --help and the manual.

In a text, backquotes are around what is typed.
"""

from __future__ import annotations

from dataclasses import dataclass

from rbdfs.config.option_texts import Option

SUMMARY = "mount a Ceph pool as a directory"
DESCRIPTION = (
    "rbdfs mounts a Ceph pool as a directory: every RBD image in it is a file, every snapshot of "
    "an image a read-only file beside it. Root is not needed, nor the RBD kernel driver."
)
EXIT_CODES = {
    0: "it is done: mounted, with `-f` served and ended on request, or answered",
    1: "nothing is mounted, the end was not clean, or nothing could be told; one line on stderr "
    "says why",
    2: "the command line makes no sense",
}
HELP = Option("show this help", switches=("-h", "--help"))
VERSION = Option("show the version", switches=("--version",))


@dataclass(frozen=True, slots=True)
class Command:
    """What `rbdfs NAME` does.

    Attributes:
        forms: what may stand behind the name.
        paragraphs: more than the summary says.
        options: its own, besides those of a mount and --help.
    """

    summary: str
    forms: tuple[str, ...]
    paragraphs: tuple[str, ...]
    options: tuple[Option, ...]


COMMANDS = {
    "mount": Command(
        "mount a pool, a namespace of it, all pools, or one image",
        (
            "[OPTION...] POOL[/NAMESPACE] MOUNTPOINT",
            "[OPTION...] --all-pools MOUNTPOINT",
            "[OPTION...] rbd:POOL/[NAMESPACE/]IMAGE[@SNAP][:KEY=VALUE...] FILE",
        ),
        (
            "It returns when the mount can be used, and not before; with `-f` it stays in the "
            "foreground, until it is unmounted or told to end (SIGTERM, SIGINT). The word `mount` "
            "may be left out. A pool of the name of a command is mounted with "
            "`rbdfs -- POOL MOUNTPOINT`.",
            "The last form is that of QEMU, and mounts one image on FILE, a regular file that "
            "exists. In a file name, `%`, `/`, `@` and bytes that are not UTF-8 are written `%XX`.",
        ),
        (
            Option(
                "say on stdout what is mounted (source, mountpoint, pid), or the error, as JSON",
                switches=("--json",),
            ),
        ),
    ),
    "umount": Command(
        "unmount, and wait until all is written and closed",
        ("[--json] [--timeout SECONDS] MOUNTPOINT",),
        (
            "As root, or as who mounted (with fusermount3). Where the mount is busy it stays, and "
            "who uses it is told, as far as the caller may see: processes by number and name, loop "
            "devices, and what is mounted below. A terminal shows what is left to be closed while "
            "that takes longer than a second. It ends a dead mount, too. For "
            "that, and with `-o datapath=python`, there is nobody to wait for (`waited` is false).",
        ),
        (
            Option(
                "how long to wait, in seconds. What is unmounted then stays so, and what is left "
                "to write is still written",
                "60",
                ("--timeout",),
                value="SECONDS",
            ),
            Option(
                "say on stdout what was unmounted, or the error and the users, as JSON",
                switches=("--json",),
            ),
        ),
    ),
    "mounts": Command(
        "list the mounts of rbdfs on this host",
        ("[--json]",),
        (
            "Source, mount point, state and number of open files of each. The state is `serving`, "
            "`restarting`, `no server` (it waits for the next), `given up` (until "
            "`rbdfs restart`), `dead` (its keeper was killed), `no answer` (it hangs), or "
            "`unknown` (of another user).",
        ),
        (Option("a list, with the keeper's process too, as JSON", switches=("--json",)),),
    ),
    "status": Command(
        "tell what serves a mount, and which files are open",
        ("[--json|--prometheus] MOUNTPOINT",),
        (
            "As JSON in any case. To root and to who mounted. `state` is `serving`; `no server` "
            "while one is started; `given up` when none could be, until `rbdfs restart`. "
            "`oldest_request_seconds` is for how long the oldest request has not been answered, "
            "and `waiting` has the images that have waited for two seconds; after ten the log "
            "names them, too, and why (`osd.0 is down`, `pool is full`, `locked by ADDRESS`), and "
            "when they go on. `moves` has how many percent of an image is copied that is moved to "
            "another pool.",
        ),
        (
            Option("accepted: it is JSON in any case", switches=("--json",)),
            Option(
                "the metrics instead, as `--metrics` of the mount shows them, for the textfile "
                "collector of Prometheus' node exporter; also while the server hangs or restarts",
                switches=("--prometheus",),
            ),
        ),
    ),
    "stat": Command(
        "tell all that is known of a file of a mount",
        ("[--json] FILE...",),
        (
            "Image, snapshot or partition: spec and id, size, used and provisioned bytes, features "
            "and flags, times, parents (also those in the trash) and children, locks and watchers "
            "with their addresses and which of them are this mount's, snapshots (newest first), "
            "group, migration, mirroring, a LUKS header, QEMU's name for it, and who has it open "
            "here. Used is what the object map has of its own objects. A directory: its pool.",
            "Who may read the file may ask, and needs no key: the mount answers, by the extended "
            "attribute `user.rbdfs.stat`, which is in no list. Nothing is locked or opened for "
            "writing. What cannot be told is null in JSON, with the reason in `not_known`; what is "
            "left out of a list that is too long (the answer has 64 KiB) is counted in `left_out`.",
        ),
        (
            Option(
                "an object; a list of them for more than one FILE, in which those that failed "
                "have `error`",
                switches=("--json",),
            ),
        ),
    ),
    "map": Command(
        "show where a file of a mount has data",
        ("[--json | --draw] FILE",),
        (
            "The extents that lseek(2) tells, with SEEK_DATA and SEEK_HOLE, one a line as they are "
            "found. What is no data reads as zeros.",
        ),
        (
            Option(
                "as `qemu-img map --output=json` has them for a raw image, one a line",
                switches=("--json",),
            ),
            Option(
                "draw the file, a few lines of characters: the darker, the more data. In ASCII "
                "where the locale has no other characters",
                switches=("--draw",),
            ),
        ),
    ),
    "debug": Command(
        "write all that tells how a mount is doing to one archive, and say what looks wrong",
        ("[--json] [--output FILE] MOUNTPOINT",),
        (
            "As root, or as who mounted; also where a server hangs, or there is none. The archive "
            "(tar, gzip, mode 0600) has versions, the command line, status, metrics, the last "
            "10,000 lines of each process's log, stacks and tasks, descriptors, limits, memory, "
            "and what the kernel knows of the connection. What a server that has crashed had "
            "logged is only where its log went. Keys are asterisks in the archive. It has names of "
            "images and addresses of clients: look into it before it goes elsewhere.",
        ),
        (
            Option(
                "where to write it; nothing that is there is overwritten",
                "`rbdfs-debug-HOST-TIME.tar.gz`, here",
                ("--output",),
                value="FILE",
                kind="file",
            ),
            Option(
                "say on stdout what is written, and what looks wrong, as JSON", switches=("--json",)
            ),
        ),
    ),
    "top": Command(
        "show who loads the cluster: requests, bytes and latency of each image, as top(1) does",
        ("[--interval SECONDS] [--once] [--json] [MOUNTPOINT]",),
        (
            "Without MOUNTPOINT it is of all mounts of this host. Two lines tell of each mount: "
            "its state, how long ago the cluster has answered anything, how often its server was "
            "replaced, for how long at most the server's main thread let others wait since the "
            "last look (lag), and its sums. Below them is each image that was opened since the "
            "mount was made, snapshots and partitions counted with it: reads and writes a second, "
            "MiB/s of both, the times in which half and 99 % of them were answered (p50, p99), "
            "requests of any kind in flight (depth), and how its requests a second went in the "
            "last minute. A wide terminal has room for more. What the page cache answers is no "
            "request.",
            "A key sorts: `i` by requests of any kind, `r` by reads, `w` by writes, `b` by MiB/s, "
            "`l` by p99, `d` by depth, `n` by name. The space bar halts the picture, and lets it "
            "go on; `q` and Ctrl-C end it. It goes on while a server hangs or is started anew, and "
            "ends with the mount: with exit code 1 where that was no clean end.",
            "Times come from a histogram whose steps are powers of two, and are interpolated "
            "within one. Of more than 4,095 images the others are one line. To root and to who "
            "mounted. A table needs Python's rich (Debian: python3-rich); `--json` does not.",
        ),
        (
            Option(
                "how long between two looks, in seconds, 0.1 at least",
                "1",
                ("--interval",),
                value="SECONDS",
            ),
            Option("look for one interval, print that, and end", switches=("--once",)),
            Option(
                "as `--once`, as JSON: rates a second, times in milliseconds, null for what is not "
                "known",
                switches=("--json",),
            ),
        ),
    ),
    "restart": Command(
        "serve a mount with what is installed now; open files stay open",
        ("[--json] MOUNTPOINT",),
        (
            "For after an upgrade, and for a mount that has given up. It returns when the new "
            "server is ready, and tells the same as `rbdfs status`, as JSON in any case.",
        ),
        (Option("accepted: it is JSON in any case", switches=("--json",)),),
    ),
}
