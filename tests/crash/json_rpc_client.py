"""
An application that pays with web3.py, and repeats a transfer until it is mined.

Without a key it stops before the same transfer would be another one.
"""

import hashlib
import itertools
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from eth_typing import HexStr
from web3 import Web3
from web3.exceptions import TransactionNotFound, Web3RPCError

from tests.crash.dependencies import DECIMALS
from tests.crash.gateway_client import Order
from tests.crash.gateway_process import Load
from tests.crash.http_client import NO_RESPONSE, mint_token
from tests.crash.journal import Journal


_WITHOUT_KEY_SECONDS = 90.0
"""It is less than the 120 seconds of the service: a request may arrive late."""

_RECEIPT_SECONDS = 2.0
_UNAVAILABLE = frozenset({-32002, -32005})
_NOT_SENT_YET = "not-sent-yet"


@dataclass(frozen=True, slots=True)
class Habits:
    """
    How an application sends one order.

    ``is_keyed``: with an ``Idempotency-Key``.  ``seconds``: how long it waits for an
    answer; the service continues with the request.  ``copies``: how many threads send
    it at once.  ``is_forgetful``: it sends the transfer again after it was mined.
    """

    is_keyed: bool
    seconds: float
    copies: int
    is_forgetful: bool

    @classmethod
    def of(cls, order: Order) -> "Habits":
        """Return the habits, always the same for an order."""
        seed = hashlib.sha256(order.key.encode()).digest()[1]
        return cls(
            is_keyed=bool(seed & 1),
            seconds=0.5 if seed & 2 else 12.0,
            copies=2 if seed & 4 else 1,
            is_forgetful=bool(seed & 8),
        )


@dataclass(frozen=True, slots=True)
class JSONRPCClient:
    """Sends transfers of *token* from *wallet* to *url*, as the tenant ``gateway``."""

    url: str
    token_key: Path
    token: str
    wallet: str

    def pay(self, order: Order, journal: Journal) -> None:
        """
        Repeat the transfer until it is mined, or until it would be another one.

        Raises:
            AssertionError: The answer is an error after which no client repeats.
        """
        habits = Habits.of(order)
        payment = _Payment(order, habits, self._connect(order, habits), self, journal)
        seconds = float("inf") if habits.is_keyed else _WITHOUT_KEY_SECONDS
        deadline = time.monotonic() + seconds
        for pause in _pauses():
            tx_hash = payment.send()
            if tx_hash is not None and payment.await_receipt(tx_hash):
                break
            time.sleep(pause)
            if time.monotonic() > deadline:
                journal.write("abandoned", key=order.key)
                return
        if habits.is_forgetful and time.monotonic() < deadline:
            payment.send()

    def _connect(self, order: Order, habits: Habits) -> Web3:
        token = mint_token(self.token_key, "gateway", roles=["signer"])
        headers = {"Authorization": f"Bearer {token}"}
        if habits.is_keyed:
            headers["Idempotency-Key"] = order.key
        options = {"headers": headers, "timeout": habits.seconds}
        return Web3(Web3.HTTPProvider(self.url, options))


@dataclass(frozen=True, slots=True)
class _Payment:
    """One order, and the connection that sends it."""

    order: Order
    habits: Habits
    w3: Web3
    client: JSONRPCClient
    journal: Journal

    def send(self) -> str | None:
        """Send the transfer, and return its hash if the service answered with one."""
        terms = {
            "key": self.order.key,
            "recipient": self.order.recipient,
            "amount": self.order.amount,
        }
        began = self.journal.write("asked", **terms)
        try:
            sent = self.w3.eth.send_transaction(self._transfer())
        except Web3RPCError as e:
            error = dict((e.rpc_response or {})["error"])
            self.journal.write("postponed", key=self.order.key, error=error)
            assert _is_temporary(error), f"{self.order.key}: {error}"
            return None
        except NO_RESPONSE as e:
            self.journal.write("failed", key=self.order.key, error=type(e).__name__)
            return None
        tx_hash = sent.to_0x_hex()
        self.journal.write(
            "sent",
            **terms,
            began=began,
            tx_hash=tx_hash,
            is_keyed=self.habits.is_keyed,
        )
        return tx_hash

    def await_receipt(self, tx_hash: str) -> bool:
        """Return whether the transaction is mined soon, and journal that."""
        until = time.monotonic() + _RECEIPT_SECONDS
        while time.monotonic() < until:
            with suppress(TransactionNotFound, Web3RPCError, *NO_RESPONSE):
                receipt = self.w3.eth.get_transaction_receipt(HexStr(tx_hash))
                assert receipt["status"] == 1, f"{self.order.key}: {tx_hash} reverted"
                self.journal.write(
                    "mined",
                    key=self.order.key,
                    recipient=self.order.recipient,
                    amount=self.order.amount,
                    tx_hash=tx_hash,
                )
                return True
            time.sleep(0.2)
        return False

    def _transfer(self) -> Any:
        units = int(Decimal(self.order.amount).scaleb(DECIMALS))
        recipient = self.order.recipient[2:].lower().rjust(64, "0")
        return {
            "from": self.client.wallet,
            "to": Web3.to_checksum_address(self.client.token),
            "data": f"0xa9059cbb{recipient}{units:064x}",
        }


def run_client(
    client: JSONRPCClient, journal_file: Path, load: Load, stop: Event
) -> None:
    """Keep ``load.concurrency`` transfers in flight until *stop*; finish those."""
    numbers = itertools.count()
    with Journal(journal_file) as journal, ThreadPoolExecutor() as copies:

        def pay_until_stopped(_: int) -> None:
            while not stop.is_set():
                order = Order.numbered(load.series, next(numbers))
                count = Habits.of(order).copies
                list(copies.map(client.pay, [order] * count, [journal] * count))

        with ThreadPoolExecutor(load.concurrency) as pool:
            list(pool.map(pay_until_stopped, range(load.concurrency)))
        journal.write("done")


def _pauses() -> Iterator[float]:
    """Yield the seconds between tries, growing to one, with jitter."""
    pause = 0.05
    while True:
        yield pause * random.uniform(0.5, 1.5)
        pause = min(pause * 2, 1.0)


def _is_temporary(error: dict[str, Any]) -> bool:
    """Return whether the same transfer may succeed later."""
    if error["code"] in _UNAVAILABLE:
        return True
    return bool(error["data"].get("code") == _NOT_SENT_YET)
