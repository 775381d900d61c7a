"""
Named points at which a process kills itself, without a hook in production code.

Wrappers of the ports (store, chain client, key backend) reach the points

    role/port.method:when          role/port.method(detail):when

*role* is ``api`` (which has no key), ``admin`` or ``worker``; *when* is ``before`` or
``after``.  *detail* is the status that ``save`` is about to write, ``replaced``
for a replacement transaction, or ``rotation`` for a call about a key that an
administrator named.
``chain.broadcast:sent`` is between the last byte of the request and the first of the
response.  ``CRASH_AT`` names the armed points, separated by blanks, and
``CRASH_MARKERS`` a folder: each point kills one process in all.
"""

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, cast
from urllib.parse import urlsplit

from api.container import Container
from signer.chain.chain import Chain
from signer.ports import ChainClient, KeyDirectory, Ledger


CRASH_AT = "CRASH_AT"
CRASH_MARKERS = "CRASH_MARKERS"

# The keys number the steps of a payment and of an administrator's request.
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


# Only stuck transactions reach these: see ``test_replacements.py``.
REPLACING = {
    11: ("store.save(replaced):before", "store.save(replaced):after"),
    12: ("chain.broadcast(replaced):before", "chain.broadcast(replaced):after"),
}

# Workers and administrators' processes seal.
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

_ROTATION_THREAD = "deadline-new-key"
"""The thread in which the service self-tests a key that an administrator named."""


def names(role: str, points: Mapping[int, tuple[str, ...]]) -> list[str]:
    """Return *points* in order, as ``CRASH_AT`` names them for *role*."""
    return [f"{role}/{name}" for number in sorted(points) for name in points[number]]


class CrashPoints:
    """The armed points of a process with *role*."""

    def __init__(self, role: str, environ: Mapping[str, str]) -> None:
        self._role = role
        self._armed = frozenset(environ.get(CRASH_AT, "").split())
        self._markers = Path(environ.get(CRASH_MARKERS, os.devnull))
        self._replacing = False

    def reach(self, name: str) -> None:
        """Kill this process if *name* is armed and has killed none yet."""
        point = f"{self._role}/{name}"
        if point in self._armed and self._claim(point):
            _die()

    def remember(self, args: tuple[Any, ...]) -> None:
        """Note whether the transaction in *args* replaces an earlier one."""
        attempts = [arg.attempt for arg in args if hasattr(arg, "attempt")]
        if attempts:
            self._replacing = attempts[0] > 0

    def details(self, place: str) -> list[str]:
        """Return names of *place* that depend on earlier calls or on the thread."""
        if place == "chain.broadcast" and self._replacing:
            return [f"{place}(replaced)"]
        if threading.current_thread().name == _ROTATION_THREAD:
            return [f"{place}(rotation)"]
        return []

    def is_armed(self, name: str) -> bool:
        """Whether *name* may still kill a process."""
        point = f"{self._role}/{name}"
        return point in self._armed and not marker(self._markers, point).exists()

    def _claim(self, point: str) -> bool:
        try:
            marker(self._markers, point).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def marker(markers: Path, point: str) -> Path:
    """Return the file that exists once *point* has killed a process."""
    return markers / point.replace("/", "|")


def reached(markers: Path) -> set[str]:
    """Return the points that have killed a process."""
    return {path.name.replace("|", "/") for path in markers.iterdir()}


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


class CrashingPort:
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
            places = [place, *_details(place, args), *self._points.details(place)]
            for place in places:
                self._points.reach(f"{place}:before")
            answer = method(*args, **kwargs)
            for place in places:
                self._points.reach(f"{place}:after")
            self._points.remember(args)
            return answer

        return call


class CrashingChain(CrashingPort):
    """A chain client that may also die before it reads the response to a broadcast."""

    def __init__(self, chain: Chain, points: CrashPoints) -> None:
        super().__init__(chain.client, "chain", points)
        self._client: Any = chain.client
        self._url = chain.network.rpc_urls[0].get_secret_value()

    def broadcast(self, raw: bytes) -> object:
        """Broadcast *raw*, or die while the response is on its way."""
        if self._points.is_armed("chain.broadcast:sent"):
            _send_without_reading(self._url, raw)
            self._points.reach("chain.broadcast:sent")
        return self._around("broadcast", self._client.broadcast)(raw)


def add_crash_points(
    container: Container, role: str, environ: Mapping[str, str]
) -> Container:
    """Return a copy of *container* with crash points around every port."""
    points = CrashPoints(role, environ)
    chains = {
        name: Chain(chain.network, cast("ChainClient", CrashingChain(chain, points)))
        for name, chain in container.chains.items()
    }
    store = cast("Ledger", CrashingPort(container.store, "store", points))
    crashing = replace(
        container, open_store=lambda _: store, open_chains=lambda _: chains
    )
    if role != "api":
        directory = CrashingPort(container.backend, "backend", points)
        crashing.open_backend = lambda _: cast("KeyDirectory", directory)
    return crashing


def _details(place: str, args: tuple[Any, ...]) -> list[str]:
    # The last argument with a status is the refund as it will be saved.
    statuses = [arg.status for arg in args if hasattr(arg, "status")]
    details = [f"{place}({statuses[-1]})"] if statuses else []
    if any(getattr(arg, "attempt", 0) for arg in args):
        details.append(f"{place}(replaced)")
    return details


def _send_without_reading(url: str, raw: bytes) -> None:
    """Broadcast *raw*; the kernel delivers it even if the process dies at once."""
    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "eth_sendRawTransaction",
        "params": [f"0x{raw.hex()}"],
    }
    body = json.dumps(call).encode()
    parts = urlsplit(url)
    head = (
        f"POST / HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    # The death of the process closes the connection.
    connection = socket.create_connection((parts.hostname or "", parts.port or 80))
    connection.sendall(head.encode() + body)
