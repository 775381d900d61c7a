"""
Named points at which a process kills itself, without a hook in production code.

Wrappers of the ports (store, chain client, key backend) reach the points

    role/port.method:when          role/port.method(detail):when

*role* is ``api`` (which has no key), ``admin``, ``sign`` or ``worker``; *when* is
``before`` or ``after``.  *detail* is a status that ``save_all`` is about to write,
``replaced`` for a replacement transaction, or ``rotation`` for a call about a key that
an administrator named.
Where several refunds are in one transaction, ``batch`` comes before the status, or is
the detail of a call without one.
``chain.broadcast_all:sent`` is between the last byte of the request and the first of
the response.  ``CRASH_AT`` names the armed points, separated by blanks, and
``CRASH_MARKERS`` a folder: each point kills one process in all.
"""

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast
from urllib.parse import urlsplit

from api.container import Container
from signer.chain.chain import Chain
from signer.chain.vault import PAY
from signer.model.key import Key
from signer.model.transaction import Transaction
from signer.ports.chain import ChainClient
from signer.ports.key_backend import KeyDirectory
from signer.ports.ledger import Ledger
from signer.ports.refund_store import Change, Reservation


CRASH_AT = "CRASH_AT"
CRASH_MARKERS = "CRASH_MARKERS"

# The keys number the steps of a payment and of an administrator's request.
SENDING = {
    3: ("store.reserve_all:before",),
    4: ("store.reserve_all:after",),
    5: ("backend.sign_digest:before",),
    6: ("backend.sign_digest:after", "store.save_all(signed):before"),
    7: ("store.save_all(signed):after", "chain.broadcast_all:before"),
    8: ("chain.broadcast_all:sent",),
    9: (
        "chain.broadcast_all:after",
        "store.save_all(broadcast):before",
        "store.save_all(broadcast):after",
    ),
}
API = {
    1: ("store.accept_all:before",),
    2: ("store.accept_all:after",),
}
WORKER = {
    **SENDING,
    10: (
        "store.claim:after",
        "chain.receipts:after",
        "store.save_all(mined):before",
        "store.save_all(mined):after",
        "store.save_all(confirmed):before",
        "store.save_all(confirmed):after",
    ),
}


# Only stuck transactions reach these: see ``test_replacements.py``.
REPLACING = {
    11: ("store.save_all(replaced):before", "store.save_all(replaced):after"),
    12: ("chain.broadcast_all(replaced):before", "chain.broadcast_all(replaced):after"),
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

# A transfer of a JSON-RPC client becomes a refund, and waits for its worker.
JSON_RPC = {
    16: (
        "store.find:after",
        "store.accept_all:before",
        "store.accept_all:after",
        "store.find_advanced:before",
        "store.find_advanced:after",
    ),
}

# Only what a vault pays reaches these: composition, signature, broadcast, and ends.
BATCHES = {
    17: (
        "store.unmined_amounts:after",
        "chain.preflight:after",
        "store.reserve_all(batch):before",
        "store.reserve_all(batch):after",
        "store.save_all(batch-signed):before",
        "store.save_all(batch-signed):after",
        "chain.broadcast_all(batch):before",
        "chain.broadcast_all(batch):after",
        "store.save_all(batch-broadcast):before",
        "store.save_all(batch-broadcast):after",
        "store.save_all(batch-mined):before",
        "store.save_all(batch-mined):after",
        "store.save_all(batch-confirmed):before",
        "store.save_all(batch-confirmed):after",
        "store.earlier_nonces:after",
    )
}

_ROTATION_THREAD = "deadline-new-key"
"""The thread in which the service self-tests a key that an administrator named."""

_ROTATION_HOLD = timedelta(seconds=2)
"""Tests wait for it after each death in a rotation."""


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
        """Note whether the transactions in *args* replace earlier ones."""
        attempts = [
            change.attempt.attempt
            for change in _changes(args)
            if change.attempt is not None
        ]
        if attempts:
            self._replacing = any(attempts)

    def details(self, place: str) -> list[str]:
        """Return names of *place* that depend on earlier calls or on the thread."""
        if place == "chain.broadcast_all" and self._replacing:
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


class CrashingStore(CrashingPort):
    """A ledger that releases the rotation of a dead process after two seconds."""

    def __init__(self, store: Ledger, points: CrashPoints) -> None:
        super().__init__(store, "store", points)
        self._begin_rotation = partial(store.begin_rotation, hold=_ROTATION_HOLD)

    def begin_rotation(self, key: Key, now: datetime) -> Key:
        """Make *key* the pending key for two seconds, not for twenty."""
        pending: Key = self._around("begin_rotation", self._begin_rotation)(key, now)
        return pending


class CrashingChain(CrashingPort):
    """A chain client that may also die before it reads the response to a broadcast."""

    def __init__(self, chain: Chain, points: CrashPoints) -> None:
        super().__init__(chain.client, "chain", points)
        self._client: Any = chain.client
        self._url = chain.network.rpc_urls[0].get_secret_value()

    def broadcast_all(self, raws: Sequence[bytes]) -> object:
        """Broadcast *raws*, or die while the response is on its way."""
        if self._points.is_armed("chain.broadcast_all:sent"):
            _send_without_reading(self._url, raws)
            self._points.reach("chain.broadcast_all:sent")
        return self._around("broadcast_all", self._client.broadcast_all)(raws)


def add_crash_points(
    container: Container, role: str, environ: Mapping[str, str]
) -> Container:
    """Return a copy of *container* with crash points around every port."""
    points = CrashPoints(role, environ)
    chains = {
        name: Chain(chain.network, cast("ChainClient", CrashingChain(chain, points)))
        for name, chain in container.chains.items()
    }
    store = cast("Ledger", CrashingStore(container.store, points))
    crashing = replace(container)
    crashing.store = store
    crashing.chains = crashing.tenants_chains = chains
    if role != "api":
        directory = CrashingPort(container.backend, "backend", points)
        crashing.backend = cast("KeyDirectory", directory)
    return crashing


def _details(place: str, args: tuple[Any, ...]) -> list[str]:
    changes = _changes(args)
    statuses = {each.after.status for each in changes}
    details = [f"{place}({status})" for status in statuses]
    if any(each.attempt and each.attempt.attempt for each in changes):
        details.append(f"{place}(replaced)")
    details += [
        f"{place}(batch-{each.after.status})" for each in changes if _pays(each)
    ]
    details += [f"{place}(batch)"] * _concerns_batch(args)
    return details


def _pays(change: Change) -> bool:
    """Return whether *change* is that of a transaction of several refunds."""
    after = change.after
    return isinstance(after, Transaction) and len(after.payment_ids) > 1


def _concerns_batch(args: tuple[Any, ...]) -> bool:
    """Return whether the first of *args* has refunds of a vault, or bytes to pay it."""
    first = args[0] if args else None
    if not isinstance(first, list | tuple):
        return False
    return any(
        PAY in each
        if isinstance(each, bytes)
        else isinstance(each, Reservation) and each.vault is not None
        for each in first
    )


def _changes(args: tuple[Any, ...]) -> list[Change]:
    """Return the changes in the first of *args*, if it is a list of them."""
    first = args[0] if args else None
    if not isinstance(first, list | tuple):
        return []
    return [each for each in first if isinstance(each, Change)]


def _send_without_reading(url: str, raws: Sequence[bytes]) -> None:
    """Broadcast *raws*; the kernel delivers them even if the process dies at once."""
    calls = [
        {
            "jsonrpc": "2.0",
            "id": number,
            "method": "eth_sendRawTransaction",
            "params": [f"0x{raw.hex()}"],
        }
        for number, raw in enumerate(raws)
    ]
    body = json.dumps(calls).encode()
    parts = urlsplit(url)
    head = (
        f"POST / HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    # The death of the process closes the connection.
    connection = socket.create_connection((parts.hostname or "", parts.port or 80))
    connection.sendall(head.encode() + body)
