"""
Refunds of one tenant, alone and beside each load that another tenant can cause.

A client of one tenant posts refunds one after another, each until it is broadcast.
The other tenant's client does not pause; it runs on the same machine, and takes the
processor as well.

Rows that no tenant can cause: a slow device or KMS (the operator's quota; signatures
of messages are a row), the audit log's growth (three records for each paid refund, so
the row of the queue has it), and a node that is slow for payments (the row of slow
reads has a node of its own).
"""

import contextlib
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from api.auth.jwt_verifier import Role
from bench.harness import Figure, Goal, Prepared, Scenario, Values
from bench.refund_rates import percentile
from bench.service import BAD_REQUEST, SUBJECT, Service, refund_body, require_created
from bench.two_tenants import (
    ABOVE_LIMIT,
    HOSTILE,
    SLOW_CALL,
    SLOW_NETWORK,
    TO_APPROVE,
    two_tenants,
)
from dev.stack import NETWORK


MOST = 2.0
"""The largest ratio of a tenant's time beside a load to its time alone."""

_PEERS = ("192.0.2.1", "192.0.2.2")  # Of clients with a valid and a wrong token.
_POSTS, _PARTS = 100, 4
_SOCKETS = 40
_BATCH = "/v1/refunds/batch"


def _call(method: str, *params: object) -> Mapping[str, object]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def _batch(size: int, amount: str = "0.01", *, recipient: str = "") -> str:
    """Return a batch; *recipient* has places for the number of request and member."""
    members = [
        {
            "idempotency_key": f"hostile-%08d-{member:03d}",
            **refund_body(f"%08d-{member:03d}"),
            "amount": amount,
            **({"recipient": recipient.format(member)} if recipient else {}),
        }
        for member in range(size)
    ]
    return json.dumps({"refunds": members})


_NEW_RECIPIENT = "0x1" + "%08d" + "{:031d}"  # No letters: its checksum is right.
_LOGS = _call("eth_getLogs", {"fromBlock": "0x0", "toBlock": "0x63"})


@dataclass(frozen=True, slots=True)
class Load:
    """
    What the other tenant sends, from *sockets* without a pause.

    *requests* are sent before the measurement instead, and *is_paid* shows whether
    they end by themselves.  The measured refunds are to new recipients if the load
    *screens*.
    """

    name: str
    path: str
    body: str = ""
    sockets: int = _SOCKETS
    role: Role = "merchant"
    token: str | None = None
    requests: int = 0
    is_paid: bool = True
    screens: bool = False


def _loads(*, is_quick: bool = False) -> Sequence[Load]:
    """Return all loads, those whose refunds stay open for ever last."""
    part = 100 if is_quick else 1
    new = 200 // part
    slow = _call(SLOW_CALL, f"0x{1:040d}", "0x0", "latest")
    held = partial(Load, path=_BATCH, is_paid=False)
    signer = partial(Load, role="signer")
    return (
        Load("lists of refunds", "/v1/refunds?limit=100"),
        Load("previews", "/v1/refunds/preview", json.dumps(refund_body("preview"))),
        Load("refused requests", "/v1/refunds", json.dumps({"amount": "-1"})),
        Load("wrong tokens", "/v1/refunds", token="e30.e30.AAAA"),
        signer("large answers", f"/rpc/{NETWORK}", json.dumps(20 * [_LOGS])),
        signer("reads of a slow node", f"/rpc/{SLOW_NETWORK}", json.dumps(slow)),
        signer(
            "messages to sign", "/v1/sign/message", json.dumps({"message": "no. %08d"})
        ),
        Load(
            "batches of 200 new recipients, slow screening",
            _BATCH,
            _batch(new, recipient=_NEW_RECIPIENT),
            sockets=4,
            screens=True,
        ),
        Load("4,000 refunds to pay", _BATCH, _batch(500 // part), requests=8),
        held(
            "500 refunds to approve", body=_batch(500 // part, TO_APPROVE), requests=1
        ),
        held(
            "3,000 refunds over a limit",
            body=_batch(500 // part, ABOVE_LIMIT),
            requests=6,
        ),
    )


class _Measurement:
    """Measures one row: the refunds alone, and beside the load."""

    def __init__(self, service: Service, load: Load, *, is_quick: bool) -> None:
        self._service, self._load = service, load
        self._posts, self._parts = (3, 1) if is_quick else (_POSTS, _PARTS)
        self._sockets = 1 if is_quick else load.sockets

    def __call__(self, seconds: float) -> Values:
        """Return the times in milliseconds."""
        load, alone, beside = self._load, list[float](), list[float]()
        if load.requests:
            alone += self._post(self._posts)
            self._queue()
            beside += self._post(self._posts)
        else:
            for _ in range(self._parts):  # In turns: others may use the machine.
                self._service.await_idle()
                alone += self._post(self._posts // self._parts)
                with self._service.sending(self._request(), self._sockets):
                    self._post(2)  # Meanwhile all clients connect.
                    beside += self._post(self._posts // self._parts)
        self._service.settle(subject=SUBJECT)
        if load.is_paid:
            self._service.settle(subject=HOSTILE)
        return {
            name: value
            for case, taken in (("alone", alone), ("beside", beside))
            for name, value in zip(
                _names(load, case),
                (statistics.median(taken), percentile(taken, 99)),
                strict=True,
            )
        }

    def _queue(self) -> None:
        """
        Post all requests of the load.

        Raises:
            RuntimeError: One was not accepted.
        """
        count = self._load.requests
        run = self._service.send(self._request(), 1, 120.0, count=count)
        if any(sample.status >= BAD_REQUEST for sample in run.samples):
            raise RuntimeError(f"{self._load.name}: {run.samples[0].status}")

    def _request(self) -> str:
        load, service = self._load, self._service
        token = load.token or service.token(HOSTILE, load.role)
        peer = _PEERS[load.token is not None]
        key = "hostile-%08d" if load.role == "merchant" else ""
        return service.request(load.path, load.body, key=key, token=token, peer=peer)

    def _post(self, count: int) -> list[float]:
        """Return how long each of *count* refunds took to the broadcast."""
        body = dict(refund_body("%08d"))
        if self._load.screens:
            body["recipient"] = _NEW_RECIPIENT.format(1)
        raw = self._service.request("/v1/refunds", json.dumps(body), key="bench-%08d")
        run = self._service.send(raw, 1, 600.0, count=count)
        require_created(run)
        return run.latencies_ms()


def _names(load: Load, case: str) -> tuple[str, str]:
    return (f"{load.name}: {case}, median", f"{load.name}: {case}, p99")


def _figures(load: Load) -> Iterator[Figure]:
    for alone, beside in zip(
        _names(load, "alone"), _names(load, "beside"), strict=True
    ):
        yield Figure(alone, "ms")
        yield Figure(beside, "ms", (Goal(alone, at_most=MOST),))


@contextlib.contextmanager
def _open(folder: Path, is_quick: bool) -> Iterator[Prepared]:
    with two_tenants(folder) as service:
        require_created(service.load(clients=2, seconds=60.0, count=20))
        # What the other tenant lists, and the logs that it reads.
        refunds = service.request(
            _BATCH, _batch(2 if is_quick else 500), token=service.token(HOSTILE)
        )
        service.send(refunds, 1, 60.0, count=1)
        service.settle(subject=HOSTILE)
        loads = _loads(is_quick=is_quick)
        yield Prepared(
            [figure for load in loads for figure in _figures(load)],
            [_Measurement(service, load, is_quick=is_quick) for load in loads],
        )


SCENARIO = Scenario(
    "shares", "A refund beside another tenant's load, SQLite", _open, rounds=1
)
