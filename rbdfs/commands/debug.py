"""``rbdfs debug``: all that tells how a mount is doing, in one archive, and what looks wrong."""

from __future__ import annotations

import io
import json
import os
import tarfile
import threading
import time
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from rbdfs.commands import processes
from rbdfs.commands.findings import findings
from rbdfs.commands.metrics_text import metrics_text
from rbdfs.commands.output import print_json
from rbdfs.commands.versions import versions
from rbdfs.config.secrets import redacted
from rbdfs.errors import UserError
from rbdfs.keeper.command_client import ask_keeper, connected, entry_at
from rbdfs.keeper.command_socket import peer_of
from rbdfs.keeper.meters_client import meters_of
from rbdfs.kernel.mount import control_directory
from rbdfs.model.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from rbdfs.config.command_line import Request
    from rbdfs.kernel.mount import Entry

# How long the keeper may take to answer, and anything else, in seconds.
_ANSWER_S = 5.0
_PATIENCE_S = 12.0


class Collection:
    """What has been found: texts by the name of their file, and facts by their own."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.facts: dict[str, Any] = {}

    def add(self, name: str, find: Callable[[], Any]) -> Any:
        """Have file *name* be what *find* returns, or why there is none; return it, or None.

        A thread looks: whatever belongs to somebody else may hang.
        """
        found: list[tuple[Any, str]] = []
        failure = [f"no answer within {_PATIENCE_S:g} s"]

        def look() -> None:
            try:
                answer = find()
                # What was read may be nested deeper than it can be written.
                text = answer if isinstance(answer, str) else json.dumps(answer, indent=2)
                found.append((answer, text))
            except Exception as exc:
                failure[:] = [f"{type(exc).__name__}: {exc}"]

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        thread.join(_PATIENCE_S)
        answer, self.texts[name] = found[0] if found else (None, f"({failure[0]})")
        return answer


def run(request: Request) -> int:
    """Write the archive, and print what looks wrong; raise UserError where there is no mount."""
    entry = entry_at(request.operand, "debug")
    collection = _collected(request.operand, entry)
    wrong = findings(collection.facts)
    path = request.values["output"] or _default_name()
    _write(path, collection.texts | {"findings.txt": "\n".join(wrong)})
    if request.json:
        print_json({"archive": path, "findings": wrong})
        return 0
    for line in wrong or ["nothing that looks wrong"]:
        print(printable(line))
    print(f"written: {printable(path)}")
    return 0


def _collected(path: str, entry: Entry) -> Collection:
    collection = Collection()
    collection.add("mount.json", lambda: asdict(entry))
    keeper = collection.add("keeper.txt", lambda: _keeper(path, entry))
    status = collection.add("status.json", lambda: ask_keeper(path, entry, "status", _ANSWER_S))
    debug = collection.add("cluster.json", lambda: ask_keeper(path, entry, "debug", _ANSWER_S))
    if debug is not None:
        tasks = debug.get("tasks")
        collection.texts["tasks.txt"] = tasks if isinstance(tasks, str) else "(none)"
        collection.texts["cluster.json"] = json.dumps(debug.get("health"))
    collection.add("metrics.txt", lambda: _metrics(path, entry))
    servers = processes.children(keeper) if keeper else []
    server = servers[0] if servers else None
    for name, pid in (("keeper", keeper), ("server", server)):
        if pid:
            _add_process(collection, name, pid)
    _add_kernel(collection, entry)
    collection.facts |= {
        "keeper": keeper,
        "server": server,
        "status": status,
        "health": (debug or {}).get("health"),
        "versions": collection.add("versions.json", lambda: versions(servers)),
    }
    return collection


def _keeper(path: str, entry: Entry) -> int:
    with connected(path, entry, _ANSWER_S) as sock:
        return peer_of(sock)[0]


def _metrics(path: str, entry: Entry) -> str:
    with meters_of(path, entry, _ANSWER_S) as reader:
        try:
            return metrics_text(reader).decode()
        except ModuleNotFoundError as exc:
            figures = reader.snapshot()
            raw = {
                "images": {key: asdict(each) for key, each in figures.images.items()},
                "figures": figures.figures,
                "answered_ns": figures.answered_ns,
            }
            return f"# {exc}\n{json.dumps(raw, indent=2)}"


def _add_process(collection: Collection, name: str, pid: int) -> None:
    lines = collection.add(f"{name}/log.txt", lambda: "\n".join(processes.log_lines(pid)))
    collection.add(f"{name}/stacks.txt", lambda: processes.stacks(pid))
    collection.add(f"{name}/threads.txt", lambda: processes.threads(pid))
    for file in ("cmdline", "status", "limits", "smaps_rollup", "mountinfo"):
        collection.add(f"{name}/{file}", partial(_proc, pid, file))
    counts = collection.add(f"{name}/descriptors.json", lambda: processes.descriptors(pid))
    collection.facts |= {
        f"{name}_state": processes.state(pid),
        f"{name}_descriptors": counts,
        f"{name}_log": lines or "",
    }


def _proc(pid: int, file: str) -> str:
    text = processes.read(f"/proc/{pid}/{file}").replace("\0", " ")
    if file != "mountinfo":
        return text
    return "".join(line for line in text.splitlines(keepends=True) if "rbdfs" in line)


def _add_kernel(collection: Collection, entry: Entry) -> None:
    files = {
        control_directory(entry.device): ("waiting", "max_background", "congestion_threshold"),
        f"/sys/class/bdi/{entry.device}": ("read_ahead_kb", "max_ratio"),
    }
    for directory, names in files.items():
        for name in names:
            find = partial(processes.read, f"{directory}/{name}")
            collection.facts[name] = collection.add(f"kernel/{name}", find)


def _default_name() -> str:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return f"rbdfs-debug-{os.uname().nodename}-{stamp}.tar.gz"


def _write(path: str, texts: dict[str, str]) -> None:
    """Write the archive, without secrets, for nobody else to read; raise UserError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise UserError(f"cannot write {path!a}: {exc.strerror}") from exc
    try:
        with (
            os.fdopen(descriptor, "wb") as file,
            tarfile.open(fileobj=file, mode="w:gz") as archive,
        ):
            for name, text in sorted(texts.items()):
                # What a keeper has said may hold half of a surrogate pair.
                plain = text.encode("utf-8", "backslashreplace").decode()
                data = redacted(plain).encode() + b"\n"
                member = tarfile.TarInfo(f"rbdfs-debug/{name}")
                member.size, member.mode, member.mtime = len(data), 0o600, int(time.time())
                archive.addfile(member, io.BytesIO(data))
    except OSError as exc:
        raise UserError(f"cannot write {path!a}: {exc.strerror}") from exc
