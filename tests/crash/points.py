"""
Named crash points, without a hook in production code.

The ports (``Store``, ``ChainClient``, ``KeyBackend``) are wrapped, and a process that
reaches an armed point kills itself, as ``kill -9`` does.  A point is written

    role/port.method:when          role/port.method(status):when

with *role* ``api`` or ``worker``, *when* ``before`` or ``after``, and the status that
``save`` is about to write.  What is asked of a key that an administrator named is
``(rotation)`` as well.  ``chain.broadcast:sent`` dies between the last byte of the
request and the first of the answer.  ``CRASH_AT`` names the armed points, separated
by blanks, and ``CRASH_MARKERS`` a folder: each point kills one process in all.
"""

import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, cast

from api.container import Container
from signer.chain.chain import Chain
from signer.ports import ChainClient, KeyDirectory, Ledger
from tests.crash.half_request import send_and_forget


CRASH_AT = "CRASH_AT"
CRASH_MARKERS = "CRASH_MARKERS"

# By the steps of a payment, and of what administrators do.
SENDING = {
    3: ("store.reserve:before",),
    4: ("store.reserve:after",),
    5: ("backend.sign_digest:before",),
    6: ("backend.sign_digest:after", "store.save(signed):before"),
    7: ("store.save(signed):after", "chain.broadcast:before"),
    8: ("chain.broadcast:sent",),
    9: (
        "chain.broadcast:after",
        "store.save(broadcast):before",
        "store.save(broadcast):after",
    ),
}
API = {
    1: ("store.accept:before",),
    2: (
        "store.accept:after",
        "store.remember_answer:before",
        "store.remember_answer:after",
    ),
    **SENDING,
}
WORKER = {
    **SENDING,
    10: (
        "store.claim:after",
        "chain.receipts:after",
        "store.save(mined):before",
        "store.save(mined):after",
        "store.save(confirmed):before",
        "store.save(confirmed):after",
    ),
}


# Only where transactions are stuck: see ``test_replacements.py``.
REPLACING = {
    11: ("store.save(replaced):before", "store.save(replaced):after"),
    12: ("chain.broadcast(replaced):before", "chain.broadcast(replaced):after"),
}

# Behind the writers, in processes of either role.
SEALING = {
    13: (
        "store.seal:before",
        "store.seal:after",
        "store.keep_checkpoint:before",
        "store.keep_checkpoint:after",
    ),
}

ROTATING = {
    14: (
        "backend.resolve:before",
        "backend.resolve:after",
        "backend.public_key(rotation):after",
        "store.begin_rotation:before",
        "store.begin_rotation:after",
        "store.append(rotation):after",
        "backend.sign_digest(rotation):after",
        "store.activate:before",
        "store.activate:after",
    ),
}
RETIRING = {14: ("store.retire:before", "store.retire:after")}

RELOCATING = {
    15: (
        "backend.resolve:before",
        "backend.resolve:after",
        "backend.public_key(rotation):after",
        "backend.sign_digest(rotation):before",
        "backend.sign_digest(rotation):after",
        "store.relocate:before",
        "store.relocate:after",
    ),
}

_ROTATING_THREAD = "deadline-new-key"
"""Where ``Prover`` waits for a key that was named, and nothing else happens."""


def names(role: str, points: Mapping[int, tuple[str, ...]]) -> list[str]:
    """Return the points of *role* as ``CRASH_AT`` has them, in their order."""
    return [f"{role}/{name}" for number in sorted(points) for name in points[number]]


class CrashPoints:
    """The points that are armed for this process's *role*."""

    def __init__(self, role: str, environ: Mapping[str, str]) -> None:
        self._role = role
        self._armed = frozenset(environ.get(CRASH_AT, "").split())
        self._markers = Path(environ.get(CRASH_MARKERS, os.devnull))
        self._replacing = False

    def reach(self, name: str) -> None:
        """Die, if *name* is armed and nobody has died of it."""
        point = f"{self._role}/{name}"
        if point in self._armed and self._claimed(point):
            die()

    def remember(self, args: tuple[Any, ...]) -> None:
        """Note whether what was just recorded replaces something."""
        attempts = [arg.attempt for arg in args if hasattr(arg, "attempt")]
        if attempts:
            self._replacing = attempts[0] > 0

    def also(self, place: str) -> list[str]:
        """Return the other names of *place* while something special is under way."""
        if place == "chain.broadcast" and self._replacing:
            return [f"{place}(replaced)"]
        if threading.current_thread().name == _ROTATING_THREAD:
            return [f"{place}(rotation)"]
        return []

    def is_armed(self, name: str) -> bool:
        """Say whether somebody may still die of *name*."""
        point = f"{self._role}/{name}"
        return point in self._armed and not (self._markers / _file(point)).exists()

    def _claimed(self, point: str) -> bool:
        try:
            (self._markers / _file(point)).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def reached(markers: Path) -> set[str]:
    """Return the points that somebody has died of."""
    return {path.name.replace("|", "/") for path in markers.iterdir()}


def die() -> NoReturn:
    """End this process as kill -9 does: no handler, no flush, no goodbye."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


class Watched:
    """Any port, with a crash point before and after each of its methods."""

    def __init__(self, target: object, port: str, points: CrashPoints) -> None:
        self._target = target
        self._port = port
        self._points = points

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        if not callable(attribute):
            return attribute
        return self._around(name, attribute)

    def _around(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            place = f"{self._port}.{name}"
            places = [place, *_detailed(place, args), *self._points.also(place)]
            for place in places:
                self._points.reach(f"{place}:before")
            answer = method(*args, **kwargs)
            for place in places:
                self._points.reach(f"{place}:after")
            self._points.remember(args)
            return answer

        return call


class WatchedChain(Watched):
    """A chain client that may also die in the middle of a broadcast."""

    def __init__(self, chain: Chain, points: CrashPoints) -> None:
        super().__init__(chain.client, "chain", points)
        self._client: Any = chain.client
        self._url = chain.network.rpc_urls[0].get_secret_value()

    def broadcast(self, raw: bytes) -> object:
        """Hand *raw* to the network, or die while the answer is on its way."""
        if self._points.is_armed("chain.broadcast:sent"):
            send_and_forget(self._url, raw)
            self._points.reach("chain.broadcast:sent")
        return self._around("broadcast", self._client.broadcast)(raw)


def watched(found: Container, role: str, environ: Mapping[str, str]) -> Container:
    """Return *found* anew, with a crash point around every call to the outside."""
    points = CrashPoints(role, environ)
    chains = {
        name: Chain(chain.network, cast("ChainClient", WatchedChain(chain, points)))
        for name, chain in found.chains.items()
    }
    backend = cast("KeyDirectory", Watched(found.backend, "backend", points))
    store = cast("Ledger", Watched(found.store, "store", points))
    return replace(
        found,
        open_store=lambda _: store,
        open_backend=lambda _: backend,
        open_chains=lambda _: chains,
    )


def _detailed(place: str, args: tuple[Any, ...]) -> list[str]:
    # The last argument with a status is what the row is about to become.
    statuses = [arg.status for arg in args if hasattr(arg, "status")]
    details = [f"{place}({statuses[-1]})"] if statuses else []
    if any(getattr(arg, "attempt", 0) for arg in args):
        details.append(f"{place}(replaced)")
    return details


def _file(point: str) -> str:
    return point.replace("/", "|")
