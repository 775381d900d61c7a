"""The port to what a chain has done in the past: blocks, transfers, costs, balances."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from signer.ports.chain import Block, FinalityTag, Log, MinedTransaction


@dataclass(frozen=True, slots=True)
class Header:
    """A block, with its time in seconds since 1970 (UTC)."""

    block: Block
    timestamp: int


@dataclass(frozen=True, slots=True)
class TokenTransfer:
    """
    One ``Transfer`` event of a token.

    ``amount`` is in base units.  ``index`` is the event's position in its block.
    """

    token: str
    sender: str
    recipient: str
    amount: int
    tx_hash: str
    block: Block
    index: int


@dataclass(frozen=True, slots=True)
class Settled:
    """
    A mined transaction, with what it cost its sender.

    Amounts are in wei.  ``execution_fee`` is the gas that it used times its price,
    which the transaction's own fields bound.  ``fee`` has what a rollup adds for its
    data and operator as well.  A transaction that failed costs its fee, and moves no
    ``value``.  ``logs`` are its events.
    """

    tx_hash: str
    sender: str
    nonce: int
    to: str | None
    value: int
    data: bytes
    block: Block
    succeeded: bool
    execution_fee: int
    fee: int
    logs: tuple[Log, ...] = ()


class ChainHistory(Protocol):
    """
    Reads the past of one network, through a quorum of its nodes.

    Addresses and hashes are those of ``ChainClient``.  Every method raises
    ``ChainUnavailableError`` if too few nodes answer, or if they contradict each other:
    a balance or a count of an old block needs nodes that still have its state.
    """

    def latest_block(self) -> Block:
        """Return the head of the chain."""

    def final_block(self, tag: FinalityTag) -> Block:
        """Return the newest final block, as ``ChainClient.final_block``."""

    def headers(self, numbers: Sequence[int]) -> Sequence[Header]:
        """Return the canonical block at each height, in the order of *numbers*."""

    def transfers(
        self,
        tokens: Collection[str],
        wallets: Collection[str],
        first: int,
        last: int,
    ) -> Sequence[TokenTransfer]:
        """
        Return the transfers of *tokens* from or to *wallets*, in the chain's order.

        They are those of the blocks from *first* to *last*.  The range is split where
        the nodes return no more at once.
        """

    def events(
        self, contract: str, topic: bytes, first: int, last: int
    ) -> Sequence[Log]:
        """
        Return the events of *contract* with *topic* as first topic, in their order.

        They are those of the blocks from *first* to *last*, as for ``transfers``.
        """

    def settled(self, tx_hashes: Sequence[str]) -> Mapping[str, Settled]:
        """Return each mined transaction, by hash; others are missing."""

    def transaction_count(self, address: str, block: int | None = None) -> int:
        """Return the next nonce of *address*, as ``ChainClient.transaction_count``."""

    def find_transaction(self, sender: str, nonce: int) -> MinedTransaction | None:
        """Return what consumed a nonce, as ``ChainClient.find_transaction``."""

    def coin_balance(self, address: str, block: int) -> int:
        """Return the balance of *address* in wei, after the block at height *block*."""

    def token_balance(self, token: str, address: str, block: int) -> int:
        """Return what *address* holds of *token*, in base units, after *block*."""
