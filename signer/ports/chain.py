"""The ports to a chain's nodes: what is true now, and what was done in the past."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol

from signer.errors import ChainError


FinalityTag = Literal["safe", "finalized"]
"""How the nodes of some networks call blocks that are no longer replaced."""


@dataclass(frozen=True, slots=True)
class Call:
    """
    An unsigned contract call, with ``value`` in wei.

    ``sender`` is None if the result does not need it.  ``gas`` is the gas limit; None
    is the node's.
    """

    sender: str | None
    to: str
    data: bytes
    value: int = 0
    gas: int | None = None


@dataclass(frozen=True, slots=True)
class Fees:
    """
    The chain's current fees, in wei per gas.

    ``base_fee`` is None on a chain without EIP-1559; ``priority_fee`` is then the gas
    price.
    """

    base_fee: int | None
    priority_fee: int

    @property
    def is_legacy(self) -> bool:
        """Whether transactions need a gas price, without EIP-1559."""
        return self.base_fee is None


@dataclass(frozen=True, slots=True)
class Preflight:
    """
    What the next transactions of a sender need to be built.

    ``estimates`` has an entry for each call: the gas that it would use, or the error
    that ``ChainClient.estimate_gas`` would raise for it.  A call with a gas limit is
    only run, and its entry is the limit, which suffices.  Nodes may run such calls one
    after another: an error of one proves nothing, since those before it may be why.
    """

    pending_count: int
    fees: Fees
    estimates: tuple[int | ChainError, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """
    A block's height and hash, and how many transactions it has if a node said so.

    Nodes need not agree about the number of transactions and the *timestamp*, in
    seconds.  The day of a vault is read from it, but the contract has its own.
    """

    number: int
    hash: str
    transactions: int | None = field(default=None, compare=False)
    timestamp: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Log:
    """An event of a contract: topics of 32 bytes each, and data."""

    address: str
    topics: tuple[bytes, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class Receipt:
    """
    The receipt of a mined transaction.

    ``fee`` is what it cost, in wei; None if the node does not say.  It decides nothing,
    so nodes need not agree about it.
    """

    tx_hash: str
    block: Block
    succeeded: bool
    logs: tuple[Log, ...]
    fee: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class MinedTransaction:
    """
    A transaction in a canonical block, with ``value`` in wei.

    ``to`` is None if it created a contract.
    """

    tx_hash: str
    sender: str
    nonce: int
    to: str | None
    value: int
    data: bytes
    gas_limit: int
    block: Block


NOWHERE: Mapping[str, int] = MappingProxyType({})
"""No height is known of any transaction."""

TransactionState = Literal["mined", "pending", "unknown"]
"""Where one node has a transaction; ``unknown`` proves nothing."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """
    What a single node reports, without a quorum.

    ``node`` is its position in the configuration (``node-1``), since URLs are secrets.
    ``counted`` is the sender's next nonce in the node's newest block, ``pending`` the
    one after its transaction pool.  ``error`` is a code if the node did not answer, and
    the other values are then None or empty.  ``trusted`` says whether the node counts
    towards the quorum.
    """

    node: str
    trusted: bool
    head: int | None = None
    counted: int | None = None
    pending: int | None = None
    transactions: Mapping[str, TransactionState] = field(default_factory=dict)
    error: str | None = None


class ChainClient(Protocol):
    """
    Reads one network and broadcasts to it, through a quorum of its nodes.

    Addresses are EIP-55 strings, hashes are 0x-prefixed lower-case hex.  Every method
    raises ``ChainUnavailableError`` if too few nodes answer in time, or if they
    contradict each other.
    """

    def chain_id(self) -> int:
        """Return the nodes' chain id (``eth_chainId``)."""

    def code(self, address: str) -> bytes:
        """Return the code of *address*: empty if it is no contract."""

    def balance(self, address: str) -> int:
        """Return the balance of *address* in wei."""

    def call(self, call: Call) -> bytes:
        """
        Run *call* on the latest block and return its result.

        Raises:
            ExecutionRevertedError: The contract reverted; the message is its decoded
                reason.
        """

    def call_all(self, calls: Sequence[Call]) -> Sequence[bytes]:
        """Return the result of each of *calls*; raises as ``call`` of the first."""

    def estimate_gas(self, call: Call) -> int:
        """Return the gas that *call* would use; raises as ``call``."""

    def estimate_all(self, calls: Sequence[Call]) -> Sequence[int | ChainError]:
        """Return an entry for each of *calls*, as ``Preflight.estimates`` has them."""

    def transaction_count(self, address: str, block: int | None = None) -> int:
        """
        Return the next nonce of *address* after the block at height *block*.

        None means the latest block.  Only an archive node knows all heights.
        """

    def pending_count(self, address: str) -> int:
        """
        Return the next nonce of *address*, pending transactions included.

        Without a pending state, the network has only that of the latest block.
        It is the highest that no quorum of nodes contradicts: a transaction that is
        missed could be paid twice, and one node must not be able to pause a wallet.
        """

    def fees(self) -> Fees:
        """Return the current fees."""

    def preflight(self, sender: str, calls: Sequence[Call]) -> Preflight:
        """
        Return ``pending_count``, ``fees`` and an estimate for each of *calls* at once.

        A call that reverts, or whose estimates have no quorum, has its error in its
        place and does not affect the others.  Raises as ``pending_count`` and ``fees``.
        """

    def broadcast_all(self, raws: Sequence[bytes]) -> Sequence[ChainError | None]:
        """
        Send several signed transactions to the nodes, in this order.

        Return, for each, None if a node accepted or knows it, or else its error.  Never
        raises a ``ChainError``.

        ``BroadcastRejectedError`` means that a quorum rejected the bytes before a node
        accepted them; ``reason`` has the cause.  A slower node may have accepted them.
        ``ChainUnavailableError`` means that each node may have them.
        """

    def receipts(
        self, tx_hashes: Sequence[str], blocks: Mapping[str, int] = NOWHERE
    ) -> Mapping[str, Receipt]:
        """
        Return the known receipts by hash.  A missing one is not evidence.

        *blocks* has, by hash, heights of blocks which probably have several of them and
        few others: their receipts come in one response.  It changes no result.
        """

    def find_transaction(
        self, sender: str, nonce: int, tx_hash: str | None = None
    ) -> MinedTransaction | None:
        """
        Return the canonical transaction that consumed *nonce* of *sender*.

        None is not evidence of absence: the nonce may be unused, or consumed so long
        ago that the nodes no longer have the state of that height.  *tx_hash* may be
        the transaction's: then its state is not needed.
        """

    def latest_block(self) -> Block:
        """Return the head of the chain."""

    def final_block(self, tag: FinalityTag) -> Block:
        """Return the newest block that a quorum calls *tag*."""

    def block(self, number: int) -> Block | None:
        """Return the canonical block at *number*, if the nodes have it."""

    def node_statuses(
        self, sender: str | None, tx_hashes: Sequence[str]
    ) -> Sequence[NodeStatus]:
        """
        Return what each node reports about *sender* and *tx_hashes*, in node order.

        Without a sender, no nonces are requested.

        It is for diagnosis, and no decision depends on it.  Never raises.
        """


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
