"""The whole service under load: the stack of ``make dev``, and what is asked of it."""

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from api.auth.dev_tokens import mint
from api.auth.jwt_verifier import Role
from bench.cpu_time import cpu_seconds
from bench.load import Plan, Sample
from bench.signing import RECIPIENT
from dev.anvil import ROOT
from dev.rpc import RPC
from dev.stack import (
    NETWORK,
    SYMBOL,
    Stack,
    request,
)
from signer.config.settings import Settings
from signer.model.refund import OPEN, Status


SUBJECT = "developer"
CREATED, BAD_REQUEST = 201, 400
MARK_BYTES = 16
CONFIRMATIONS = 2  # As ``dev.stack`` configures its network.

_BATCH_PATH = "/v1/refunds/batch"
_UNSENT = [each for each in OPEN if each not in {Status.BROADCAST, Status.MINED}]
_GENERATOR = (sys.executable, "-m", "bench.load")
_LONG_SECONDS = 600.0
_IDLE_SECONDS = 0.05  # Of CPU time in half a second.
_LONG_COUNT = 100_000  # More requests than are sent in that time.


@dataclass(frozen=True, slots=True)
class LoadRun:
    """The samples of one run; ``started_at`` is the zero of their times (Unix time)."""

    started_at: float
    samples: Sequence[Sample]

    @property
    def seconds(self) -> float:
        """The time from the start to the last answer."""
        return max(sample.answered for sample in self.samples)

    def latencies_ms(self) -> list[float]:
        """Return the time from due to answered of each sample, in milliseconds."""
        return [1000 * (sample.answered - sample.due) for sample in self.samples]


@dataclass(frozen=True, slots=True)
class Block:
    """A block's time (Unix time), and the marks of the refunds that it paid."""

    timestamp: int
    marks: Sequence[bytes]


class Service:
    """
    A running stack, and a load generator for it.

    Each refund has a name of its own: the prefix of its run, and a number.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._settings = Settings.from_env(stack.environ)
        self._rpc = RPC(stack.chain_url)
        self._runs = 0
        self._next_number = 1

    def load(
        self,
        *,
        clients: int,
        seconds: float,
        rate: float | None = None,
        count: int | None = None,
        url: str | None = None,
        prefer: str = "",
    ) -> "LoadRun":
        """
        Post refunds from *clients* and return a sample of each; see ``Plan``.

        Raises:
            RuntimeError: The load generator failed.
        """
        body = json.dumps(refund_body("%08d"))
        raw = self.request("/v1/refunds", body, key="bench-%08d", prefer=prefer)
        return self.send(raw, clients, seconds, url=url, rate=rate, count=count)

    def send(
        self,
        raw: str,
        clients: int,
        seconds: float,
        *,
        url: str | None = None,
        rate: float | None = None,
        count: int | None = None,
    ) -> "LoadRun":
        """
        Send the *raw* request with numbers of its own; return a sample of each.

        Raises:
            RuntimeError: The load generator failed.
        """
        plan = self._plan(raw, clients, seconds, url, rate=rate, count=count)
        run = _run(plan)
        self._next_number += len(run.samples)
        return run

    @contextlib.contextmanager
    def sending(self, raw: str, clients: int) -> Iterator[None]:
        """Send the *raw* request from *clients* without a pause in the context."""
        plan = self._plan(raw, clients, _LONG_SECONDS, None)
        self._next_number += _LONG_COUNT
        with subprocess.Popen(
            _GENERATOR, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        ) as generator:
            try:
                generator.stdin.write(plan.encode())  # type: ignore[union-attr]
                generator.stdin.close()  # type: ignore[union-attr]
                yield
                if (status := generator.poll()) is not None:
                    raise RuntimeError(f"the load generator ended with {status}")
            finally:
                generator.kill()

    def post_batches(
        self, size: int, *, seconds: float, count: int | None = None
    ) -> int:
        """
        Post batches of *size* refunds one after another; return how many refunds.

        It ends after *seconds*, or after *count* batches.

        Raises:
            RuntimeError: One was not accepted, or the load generator failed.
        """
        names = [f"%08d-{place}" for place in range(size)]
        refunds = [
            {"idempotency_key": f"bench-{name}", **refund_body(name)} for name in names
        ]
        raw = self.request(_BATCH_PATH, json.dumps({"refunds": refunds}))
        samples = self.send(raw, 1, seconds, count=count).samples
        for sample in samples:
            if sample.status >= BAD_REQUEST:
                raise RuntimeError(f"POST {_BATCH_PATH} answered {sample.status}")
        return size * len(samples)

    def post_batch(self, size: int) -> None:
        """Post one batch of *size* refunds; raises as ``post_batches``."""
        self.post_batches(size, seconds=60.0, count=1)

    def stop(self, *kinds: str) -> None:
        """End what the stack started of these: ``serve``, ``worker``."""
        for name, process in self.stack.processes.items():
            if name.startswith(kinds):
                process.send_signal(signal.SIGTERM)
                process.wait()

    def sent_count(self) -> int:
        """Return how many transactions the wallet has sent, pending ones included."""
        pending = self._rpc("eth_getTransactionCount", self.stack.address, "pending")
        return int(pending, 16)

    def await_sent(self, count: int, seconds: float = 120.0) -> None:
        """
        Wait until the wallet has sent *count* transactions.

        Raises:
            TimeoutError: It has not after *seconds*.
        """
        deadline = time.monotonic() + seconds
        while (sent := self.sent_count()) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{sent} of {count} transactions were sent")
            time.sleep(0.005)

    def await_broadcast(self, seconds: float = 120.0) -> None:
        """
        Wait until each refund of the gateway was broadcast, alone or in a batch.

        Raises:
            TimeoutError: One was not after *seconds*.
        """
        deadline = time.monotonic() + seconds
        headers = {"Authorization": f"Bearer {self.token()}"}
        while any(self._has_refund(status, headers) for status in _UNSENT):
            if time.monotonic() > deadline:
                raise TimeoutError("refunds still wait for a broadcast")
            time.sleep(0.02)

    def settle(self, seconds: float = 120.0, subject: str = SUBJECT) -> None:
        """
        Wait until nothing is pending on the chain and *subject*'s refunds are final.

        Raises:
            TimeoutError: Something still is not after *seconds*.
        """
        deadline = time.monotonic() + seconds
        headers = {"Authorization": f"Bearer {self.token(subject)}"}
        while int(self._rpc("txpool_status")["pending"], 16) or any(
            self._has_refund(status, headers) for status in OPEN
        ):
            if time.monotonic() > deadline:
                raise TimeoutError("refunds or transactions are still pending")
            time.sleep(0.1)

    def _has_refund(self, status: str, headers: Mapping[str, str]) -> bool:
        url = f"{self.stack.url}/v1/refunds?status={status}&limit=1"
        # Refused requests mean that some of the tenant still wait.
        return bool(request("GET", url, headers=headers)[2].get("refunds", True))

    def await_idle(self, name: str = "serve") -> None:
        """Wait until the process *name*, by default the API, has nothing to do."""
        process = self.stack.processes[name].pid
        used = -1.0
        while (now := cpu_seconds(process)) - used > _IDLE_SECONDS:
            used = now
            time.sleep(0.5)

    def block(self) -> int:
        """Return the number of the newest block."""
        return int(self._rpc("eth_blockNumber"), 16)

    def blocks_from(self, first: int) -> Iterator[Block]:
        """Yield the blocks from *first* on, with the wallet's successful transfers."""
        for number in range(first, self.block() + 1):
            block = self._rpc("eth_getBlockByNumber", hex(number), True)
            receipts = self._rpc("eth_getBlockReceipts", hex(number))
            succeeded = {
                receipt["transactionHash"]
                for receipt in receipts
                if receipt["status"] == "0x1"
            }
            marks = [
                bytes.fromhex(transaction["input"][-2 * MARK_BYTES :])
                for transaction in block["transactions"]
                if transaction["from"] == self.stack.address.lower()
                and transaction["hash"] in succeeded
            ]
            yield Block(int(block["timestamp"], 16), marks)

    def token(self, subject: str = SUBJECT, role: Role = "merchant") -> str:
        """Return a new token, by default the gateway's, valid for five minutes."""
        return mint(self._settings, subject=subject, roles=[role])

    def request(
        self,
        path: str,
        body: str = "",
        *,
        key: str = "",
        prefer: str = "",
        token: str | None = None,
        peer: str = "",
    ) -> str:
        """
        Return a whole request: a POST with *body*, or a GET without one.

        A service that trusts this host as a proxy takes it for one of *peer*.
        """
        fields = {
            "Host": urlsplit(self.stack.url).netloc,
            "Authorization": f"Bearer {token or self.token()}",
            "Content-Type": "application/json" if body else "",
            "Idempotency-Key": key,
            "Content-Length": str(len(body.replace("%08d", 8 * "0"))),
            "Prefer": prefer,
            "X-Forwarded-For": peer,
        }
        head = [f"{name}: {value}" for name, value in fields.items() if value]
        method = "POST" if body else "GET"
        return "\r\n".join([f"{method} {path} HTTP/1.1", *head, "", body])

    def _plan(
        self,
        raw: str,
        clients: int,
        seconds: float,
        url: str | None,
        *,
        rate: float | None = None,
        count: int | None = None,
    ) -> str:
        target = urlsplit(url or self.stack.url)
        plan = Plan(
            host=str(target.hostname),
            port=int(target.port or 0),
            clients=clients,
            request=raw,
            first=self._next_number,
            seconds=seconds,
            rate=rate,
            count=count,
        )
        return json.dumps(dataclasses.asdict(plan))


def _run(plan: str) -> "LoadRun":
    finished = subprocess.run(
        _GENERATOR, cwd=ROOT, input=plan, capture_output=True, text=True, check=False
    )
    if finished.returncode != 0:
        raise RuntimeError(f"the load generator failed:\n{finished.stderr}")
    printed = json.loads(finished.stdout)
    samples = [Sample(*fields) for fields in printed["samples"]]
    return LoadRun(printed["started_at"], samples)


def refund_body(name: str) -> Mapping[str, str]:
    """Return the request for the refund with *name*."""
    return {
        "payment_session_id": f"bench-{name}",
        "network": NETWORK,
        "token": SYMBOL,
        "recipient": RECIPIENT,
        "amount": "0.01",
    }


def require_created(run: LoadRun) -> None:
    """
    Check that each request was answered 201.

    Raises:
        RuntimeError: One was not.
    """
    for sample in run.samples:
        if sample.status != CREATED:
            raise RuntimeError(f"request {sample.number} was answered {sample.status}")
