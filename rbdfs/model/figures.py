"""The figures of a mount that belong to no image, by the name that the meters have them under.

A server counts on where the last one has ended; what is no counter, it writes anew. One that only
a newer server writes has no Kind here, and is not exposed.
"""

from __future__ import annotations

from dataclasses import dataclass

CACHES = ("names", "headers", "sizes", "extents")
"""What is kept of: names and ids, headers of images, what images take, extents of snapshots."""

TURNS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Upper bounds in seconds by which turns of the Trio thread are counted; there are longer ones."""
LONGER = "longer"
TURNS_SUM = "turns_sum_s"
READY = "ready"
"""1 once the server answers the kernel; 0 before. Of one that has died it is what it was."""
TURN_BEGUN = "turn_begun_s"
"""When the turn has begun that the Trio thread is in, by CLOCK_MONOTONIC; 0 while it waits."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How one figure is exposed, or some that differ in a label.

    Attributes:
        metric: its name there, behind `rbdfs_`.
        text: what it tells.
        counter: whether it only grows.
        label: its label, and the value of that; or nothing.
    """

    metric: str
    text: str
    counter: bool = False
    label: tuple[str, str] | tuple[()] = ()


def turns(bound: float | str) -> str:
    """Return the name of the figure that counts turns of so many seconds at most, or LONGER."""
    return f"turns_{bound}"


def cache(kind: str, found: str) -> str:
    """Return the name of the figure of a cache of CACHES: how often *found* was hits or misses."""
    return f"cache_{kind}_{found}"


_RESTARTS = "Servers that have gone on with the mount, after a crash or because they were asked to."
_MOVES = "Moves of images to other pools or namespaces, by how they have ended."
_HITS = "What was looked for in the caches of metadata, and was there."
_MISSES = "What was looked for in the caches of metadata, and had to be asked of the cluster."

KINDS = {
    "restarts_crash": Kind("restarts", _RESTARTS, counter=True, label=("reason", "crash")),
    "restarts_asked": Kind("restarts", _RESTARTS, counter=True, label=("reason", "asked")),
    "fences": Kind("fences", "Clients of dead servers that were fenced.", counter=True),
    "moves_done": Kind("moves", _MOVES, counter=True, label=("result", "done")),
    "moves_failed": Kind("moves", _MOVES, counter=True, label=("result", "failed")),
    "moves_running": Kind("moves_running", "Moves of images that have not ended."),
    "files_open": Kind("open_files", "Open files."),
    "images_open": Kind("open_images", "Images and snapshots that files are open on."),
    "images_locked": Kind("locked_images", "Images whose exclusive lock this mount holds."),
    "images_failed": Kind(
        "failed_images", "Images whose open files fail until they are opened anew: fenced, removed."
    ),
    "images_waiting": Kind(
        "waiting_images", "Open images of which the cluster has not answered for 2 s and more."
    ),
    "longest_wait_s": Kind(
        "longest_wait_seconds", "How long the longest of them has been waited for."
    ),
    "longest_turn_s": Kind(
        "main_thread_longest_turn_seconds", "The longest turn of the main thread of this server."
    ),
    "server_started": Kind("server_start_time_seconds", "When this server has started, Unix time."),
    **{
        cache(kind, found): Kind(f"cache_{found}", text, counter=True, label=("cache", kind))
        for kind in CACHES
        for found, text in (("hits", _HITS), ("misses", _MISSES))
    },
}
