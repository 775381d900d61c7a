"""A chain in memory that mines each transaction at once, and costs nearly nothing."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import cast

from eth_abi.abi import decode, encode

from signer.crypto.transactions import SignedBytes
from signer.errors import ChainError
from signer.ports.chain import (
    NOWHERE,
    Block,
    Call,
    ChainClient,
    Fees,
    FinalityTag,
    Log,
    MinedTransaction,
    NodeStatus,
    Preflight,
    Receipt,
)
from tests.fixtures.scripted_chain import TRANSFER_EVENT


_GAS = 50_000
_FEES = Fees(base_fee=10**9, priority_fee=10**8)
_RICH = 10**30
_SELECTOR_BYTES = 4


class InstantChain:
    """
    The transfers that one wallet, *sender*, sends.

    ``sent_at`` is when it last got some (``time.perf_counter``).  Before them, it had
    *unknown* transactions of the wallet.
    """

    def __init__(self, sender: str, *, unknown: int = 0) -> None:
        self.sent_at = 0.0
        self._sender = sender
        self._nonces = Counter({sender: unknown})
        self._receipts: dict[str, Receipt] = {}

    @property
    def client(self) -> ChainClient:
        """This chain as the service sees it."""
        return cast("ChainClient", self)

    def balance(self, address: str) -> int:
        return _RICH

    def call(self, call: Call) -> bytes:
        return _RICH.to_bytes(32, "big")

    def transaction_count(self, address: str, block: int | None = None) -> int:
        return self._nonces[address]

    pending_count = transaction_count

    def fees(self) -> Fees:
        return _FEES

    def preflight(self, sender: str, calls: Sequence[Call]) -> Preflight:
        return Preflight(self._nonces[sender], _FEES, (_GAS,) * len(calls))

    def estimate_all(self, calls: Sequence[Call]) -> Sequence[int | ChainError]:
        return (_GAS,) * len(calls)

    def broadcast_all(self, raws: Sequence[bytes]) -> Sequence[ChainError | None]:
        for raw in raws:
            signed = SignedBytes.decode(raw)
            self._nonces[self._sender] = signed.transaction.nonce + 1
            block = self.latest_block()
            log = _transfer(self._sender, signed)
            self._receipts[signed.tx_hash] = Receipt(
                signed.tx_hash, block, True, (log,)
            )
        self.sent_at = time.perf_counter()
        return [None] * len(raws)

    def receipts(
        self, tx_hashes: Sequence[str], blocks: Mapping[str, int] = NOWHERE
    ) -> Mapping[str, Receipt]:
        known = self._receipts
        return {each: known[each] for each in tx_hashes if each in known}

    def find_transaction(
        self, sender: str, nonce: int, tx_hash: str | None = None
    ) -> MinedTransaction | None:
        return None

    def latest_block(self) -> Block:
        """Return the newest block: each transaction has one, and then many others."""
        return self.block(len(self._receipts) * 100)

    def final_block(self, tag: FinalityTag) -> Block:
        """Return the newest block: it is final at once."""
        return self.latest_block()

    def block(self, number: int) -> Block:
        return Block(number, f"0x{number:064x}")

    def node_statuses(
        self, sender: str | None, tx_hashes: Sequence[str]
    ) -> Sequence[NodeStatus]:
        return ()


def _transfer(sender: str, signed: SignedBytes) -> Log:
    data = signed.transaction.data[_SELECTOR_BYTES:]
    recipient, amount = decode(("address", "uint256"), data)
    parties = (encode(("address",), (party,)) for party in (sender, recipient))
    topics = (TRANSFER_EVENT, *parties)
    return Log(str(signed.transaction.to), topics, encode(("uint256",), (amount,)))
