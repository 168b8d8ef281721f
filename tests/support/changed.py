"""rbdfs with other times or threads than users get: `python changed.py NAME=VALUE,... ARGUMENT...`.

`notice` is how long, in seconds, a source that was copied stays for the sake of other mounts;
`retry` how long a step that failed waits for its next try; `threads` how many calls without a
limiter of their own may run at once; `failing` the errno that every copy comes to, or 0 for an
exception that nobody expects; `stop` how long requests may take at the end before the log tells of
them. The ARGUMENTS are those of rbdfs.
"""

from __future__ import annotations

import sys

import trio

from rbdfs.errors import Failure
from rbdfs.keeper import server_process
from rbdfs.moves.executor import Executor
from rbdfs.moves.migration import Migration


def program(**settings: float) -> list[str]:
    """What starts rbdfs so."""
    text = ",".join(f"{name}={value}" for name, value in settings.items())
    return [sys.executable, __file__, text]


def change(
    notice: float = Executor.notice_s,
    retry: float = Executor.retry_s,
    failing: float | None = None,
) -> None:
    Executor.notice_s, Executor.retry_s = notice, retry

    async def fail(*_: object) -> None:
        if not failing:
            raise KeyError("of the test")
        raise Failure("of the test", int(failing))

    if failing is not None:
        Migration.execute = fail  # type: ignore[assignment,method-assign]


def _main() -> int:
    text = sys.argv.pop(1)
    settings = {name: float(value) for name, value in (part.split("=") for part in text.split(","))}
    threads, stop = settings.pop("threads", None), settings.pop("stop", None)
    change(**settings)
    if sys.argv[1] != "rbdfs.server":
        from rbdfs.cli import main

        server_process.SERVER = [sys.executable, __file__, text, "rbdfs.server"]
        return main(sys.argv[1:])
    from rbdfs.server import __main__ as server
    from rbdfs.server import lifecycle

    if stop is not None:
        from rbdfs.fuse import native_path

        native_path._STOP_S = stop
    serve = lifecycle.serve

    async def serving(*arguments: object) -> object:
        if threads is not None:
            trio.to_thread.current_default_thread_limiter().total_tokens = int(threads)
        return await serve(*arguments)  # type: ignore[arg-type]

    lifecycle.serve = serving  # type: ignore[assignment]
    del sys.argv[1]
    return server.main()


if __name__ == "__main__":
    sys.exit(_main())
