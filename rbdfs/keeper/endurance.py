"""How long the keeper goes on starting servers."""

from __future__ import annotations

# Between the death of a server and the start of the next, in seconds, for deaths in a row. What
# kills a server at once will do so again: after the last one requests are refused instead.
_PAUSES_S = (0.0, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0)
# A server that has served so long, in seconds, did not die of what its successor will do first.
_SETTLED_S = 1.0
# Between tries to start a server that says itself that it cannot yet.
_RETRY_S = 1.0


class Endurance:
    """Counts deaths in a row. Whatever a server died of counts, but for what passes by itself."""

    def __init__(self) -> None:
        self._deaths = 0

    def renew(self) -> None:
        """Begin to count anew: somebody has mended what there was to mend, or so they think."""
        self._deaths = 0

    def pause_s(self, served_s: float, *, passing: bool) -> float | None:
        """Return how long to wait before the next try, in seconds; None for no more of them.

        *served_s* is how long the server has served that has died. *passing* says that the cluster
        or the host was silent: requests wait for that, as on any block device.
        """
        if served_s > _SETTLED_S:
            self._deaths = 0
        if passing:
            return _RETRY_S
        if self._deaths == len(_PAUSES_S):
            return None
        self._deaths += 1
        return _PAUSES_S[self._deaths - 1]
