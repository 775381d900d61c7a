"""
An application that pays with web3.py, and repeats a transaction until it is mined.

It sends tokens, sends coin and calls a contract in turn.  Without a key it stops before
the same transaction would be another one.
"""

import hashlib
import itertools
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from enum import StrEnum, auto
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from eth_typing import HexStr
from web3 import Web3
from web3.exceptions import ContractLogicError, TransactionNotFound, Web3RPCError

from dev.rpc import RPC
from tests.crash.dependencies import DECIMALS
from tests.crash.gateway_client import Order
from tests.crash.gateway_process import Load
from tests.crash.http_client import NO_RESPONSE, mint_token
from tests.crash.journal import Journal


_WITHOUT_KEY_SECONDS = 90.0
"""It is less than the 120 seconds of the service: a request may arrive late."""

CONTRACT = "0xC0Dec0dec0DeC0Dec0dEc0DEC0DEC0DEC0DEC0dE"
"""It accepts any calldata and coin, as each request has calldata of its own."""

_STOP = "0x00"
_SELECTOR = "0xb1c0ffee"  # No known function has it.

RULES = f"""\
@id("coin-of-applications")
permit (principal, action == Action::"sign-transaction", resource)
when {{ context.path == "call" && context.shape == "coin-transfer" }};

@id("calls-of-applications")
permit (principal, action == Action::"sign-transaction", resource)
when {{
  context.path == "call" && context has to && context.to == "{CONTRACT.lower()}"
  && context has selector && context.selector == "{_SELECTOR}"
}};
"""
"""The operator's rules that permit what an application sends beside tokens."""

_RECEIPT_SECONDS = 2.0
_UNAVAILABLE = frozenset({-32002, -32005})
_NOT_SENT_YET = "not-sent-yet"
_NONCE_USED = "nonce-used"


class Asset(StrEnum):
    """What an order of an application sends."""

    TOKEN = auto()
    COIN = auto()
    CALL = auto()


def number_order(
    series: str, number: int, assets: Sequence[Asset] = tuple(Asset)
) -> Order:
    """Return the same order for the same arguments, of *assets* in turn."""
    order = Order.numbered(series, number)
    match assets[number % len(assets)]:
        case Asset.TOKEN:
            return order
        case Asset.COIN:
            return replace(order, calldata="0x")
        case Asset.CALL:
            argument = hashlib.sha256(order.key.encode()).hexdigest()
            calldata = f"{_SELECTOR}{argument}"
            return replace(order, recipient=CONTRACT, calldata=calldata)


def asset_of(calldata: str | None) -> Asset:
    """Return what an order with *calldata* sends."""
    if calldata is None:
        return Asset.TOKEN
    return Asset.COIN if calldata == "0x" else Asset.CALL


@dataclass(frozen=True, slots=True)
class Habits:
    """
    How an application sends one order.

    ``is_keyed``: with an ``Idempotency-Key``.  ``is_numbered``: with a nonce, which it
    chooses once, unless the service refuses it at once.  ``seconds``: how long it waits
    for an answer; the service continues with the request.  ``copies``: how many threads
    send it at once.  ``is_forgetful``: it sends the order again after it was mined.
    """

    is_keyed: bool
    is_numbered: bool
    seconds: float
    copies: int
    is_forgetful: bool

    @classmethod
    def of(cls, order: Order) -> "Habits":
        """Return the habits, always the same for an order."""
        seed = hashlib.sha256(order.key.encode()).digest()[1]
        is_numbered = not seed & 1 and bool(seed & 16)
        return cls(
            is_keyed=bool(seed & 1),
            is_numbered=is_numbered,
            seconds=0.5 if seed & 2 else 12.0,
            # Two copies would choose two nonces, which are two payments.
            copies=2 if seed & 4 and not is_numbered else 1,
            is_forgetful=bool(seed & 8),
        )


@dataclass(frozen=True, slots=True)
class JSONRPCClient:
    """
    Sends orders of *assets* in turn to *url*, as the tenant ``gateway``.

    *wallet* pays.  It is None if keys are rotated: then the service names the wallet.
    """

    url: str
    token_key: Path
    token: str
    wallet: str | None
    assets: Sequence[Asset] = tuple(Asset)

    def pay(self, order: Order, journal: Journal) -> None:
        """
        Repeat *order* until it is mined, or until it would be another one.

        Raises:
            AssertionError: The answer is an error after which no client repeats.
        """
        habits = Habits.of(order)
        payment = _Payment(order, habits, self._connect(order, habits), self, journal)
        is_permanent = habits.is_keyed or habits.is_numbered
        seconds = float("inf") if is_permanent else _WITHOUT_KEY_SECONDS
        deadline = time.monotonic() + seconds
        for pause in _pauses():
            tx_hash = payment.send()
            if tx_hash is not None and payment.await_receipt(tx_hash):
                break
            time.sleep(pause)
            if time.monotonic() > deadline or payment.is_abandoned:
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


@dataclass(slots=True)
class _Payment:
    """
    One order, and the connection that sends it.

    ``is_uncertain``: a request with the ``nonce`` had no answer, and may be accepted
    yet.  If the service then refuses the nonce, only another nonce would be sure to pay
    again: the order ``is_abandoned``.  So it is if the nonce was of an earlier wallet.
    """

    order: Order
    habits: Habits
    w3: Web3
    client: JSONRPCClient
    journal: Journal
    wallet: str = ""
    nonce: int | None = None
    is_uncertain: bool = False
    is_abandoned: bool = False

    def send(self) -> str | None:
        """Send the order, and return its hash if the service answered with one."""
        began = self.journal.write("asked", **asdict(self.order))
        try:
            sent = self.w3.eth.send_transaction(self._transaction())
        except Web3RPCError as e:
            error: dict[str, Any] = dict((e.rpc_response or {})["error"])
            self.journal.write("postponed", key=self.order.key, error=error)
            if error["data"].get("field") == "from":  # The key was rotated.
                self.is_abandoned = self.nonce is not None
                return None
            if error["data"].get("code") == _NONCE_USED:
                self.nonce, self.is_abandoned = None, self.is_uncertain
                return None
            assert _is_temporary(error), f"{self.order.key}: {error}"
            return None
        except ContractLogicError as e:
            # Of web3's own estimate: the node reorganised while it made it.
            self.journal.write("failed", key=self.order.key, error=type(e).__name__)
            return None
        except NO_RESPONSE as e:
            self.is_uncertain = self.nonce is not None
            self.journal.write("failed", key=self.order.key, error=type(e).__name__)
            return None
        tx_hash = sent.to_0x_hex()
        self.journal.write(
            "sent",
            **asdict(self.order),
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
                self.journal.write("mined", **asdict(self.order), tx_hash=tx_hash)
                return True
            time.sleep(0.2)
        return False

    def _transaction(self) -> Any:
        if self.nonce is None:  # It is that of one wallet.
            wallet = self.client.wallet or self.w3.eth.accounts[0]
            self.wallet = Web3.to_checksum_address(wallet)
        if not self.habits.is_numbered:
            return self._content()
        if self.nonce is None:
            self.nonce = self.w3.eth.get_transaction_count(
                Web3.to_checksum_address(self.wallet), "pending"
            )
        return {**self._content(), "nonce": self.nonce}

    def _content(self) -> dict[str, Any]:
        units = int(Decimal(self.order.amount).scaleb(DECIMALS))
        if self.order.calldata is not None:
            return {
                "from": self.wallet,
                "to": self.order.recipient,
                "value": units,
                "data": self.order.calldata,
            }
        recipient = self.order.recipient[2:].lower().rjust(64, "0")
        return {
            "from": self.wallet,
            "to": Web3.to_checksum_address(self.client.token),
            "data": f"0xa9059cbb{recipient}{units:064x}",
        }


def deploy_contract(rpc: RPC) -> None:
    """Put the code of ``CONTRACT`` on a local chain."""
    rpc("anvil_setCode", CONTRACT, _STOP)


def run_client(
    client: JSONRPCClient, journal_file: Path, load: Load, stop: Event
) -> None:
    """Keep ``load.concurrency`` orders in flight until *stop*; finish those."""
    numbers = itertools.count()
    with Journal(journal_file) as journal, ThreadPoolExecutor() as copies:

        def pay_until_stopped(_: int) -> None:
            while not stop.is_set():
                order = number_order(load.series, next(numbers), client.assets)
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
    """Return whether the same transaction may succeed later."""
    if error["code"] in _UNAVAILABLE:
        return True
    return bool(error["data"].get("code") == _NOT_SENT_YET)
