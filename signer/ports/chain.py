"""What the core asks of a chain's nodes, and the values that they answer with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class Call:
    """
    A contract call that is not signed yet.

    ``sender`` is None where it does not matter who asks; a node may then take any.
    """

    sender: str | None
    to: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Fees:
    """
    What the chain asks at the moment, in wei per gas.

    ``base_fee`` is None on a chain without EIP-1559, where ``priority_fee`` is the
    whole gas price.
    """

    base_fee: int | None
    priority_fee: int


@dataclass(frozen=True, slots=True)
class Block:
    """A block's place and name."""

    number: int
    hash: str


@dataclass(frozen=True, slots=True)
class Log:
    """An event that a contract emitted: topics of 32 bytes each, and data."""

    address: str
    topics: tuple[bytes, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a mined transaction."""

    tx_hash: str
    block: Block
    succeeded: bool
    logs: tuple[Log, ...]


@dataclass(frozen=True, slots=True)
class MinedTransaction:
    """
    A transaction in a canonical block, whoever signed it.

    ``to`` is None where it made a contract.
    """

    tx_hash: str
    sender: str
    nonce: int
    to: str | None
    data: bytes
    gas_limit: int
    block: Block


TransactionState = Literal["mined", "pending", "unknown"]
"""Where one node has a transaction; ``unknown`` proves nothing."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """
    What a single node says at the moment, which nobody voted on.

    ``node`` is its place in the configuration (``node-1``), since URLs are secrets.
    ``counted`` and ``pending`` are the sender's next nonce in the node's newest block
    and behind its pool.  ``error`` is a code where it did not answer, and all else is
    then None or empty; ``trusted`` says whether its word counts at present.
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
    One network, as its nodes tell it.

    Addresses are EIP-55 strings, hashes are 0x-prefixed lower-case hex.  Every
    method raises ``ChainUnavailableError`` when too few nodes answered in time to
    tell, and when they contradict each other.
    """

    def chain_id(self) -> int:
        """Return the id that the node believes in (``eth_chainId``)."""

    def has_code(self, address: str) -> bool:
        """Say whether a contract lives at *address*."""

    def balance(self, address: str) -> int:
        """Return the balance of *address* in wei."""

    def call(self, call: Call) -> bytes:
        """
        Run *call* on the latest block and return its answer.

        Raises:
            ExecutionRevertedError: With the contract's decoded reason.
        """

    def estimate_gas(self, call: Call) -> int:
        """
        Return the gas that *call* would use.

        Raises:
            ExecutionRevertedError: With the contract's decoded reason.
        """

    def transaction_count(self, address: str, block: int | None = None) -> int:
        """
        Return the next nonce of *address* behind the block at height *block*.

        None means the latest block.  Only an archive node knows all heights.
        """

    def pending_count(self, address: str) -> int:
        """
        Return the next nonce of *address* behind all that is waiting to be mined.

        The highest that any node knows: whoever gives out nonces must not miss a
        transaction, and waits for nothing worse than for a node that is wrong.
        """

    def fees(self) -> Fees:
        """Return the fees of the moment."""

    def broadcast(self, raw: bytes) -> None:
        """
        Hand signed bytes to the network; "already known" is success.

        Raises:
            BroadcastRejectedError: The node said no, and ``reason`` says why.
        """

    def receipt(self, tx_hash: str) -> Receipt | None:
        """Return the receipt of *tx_hash*.  None proves nothing."""

    def receipts(self, tx_hashes: Sequence[str]) -> Mapping[str, Receipt]:
        """Return the receipts that are known; a missing one proves nothing."""

    def find_transaction(self, sender: str, nonce: int) -> MinedTransaction | None:
        """
        Return the canonical transaction that consumed this *nonce* of *sender*.

        None proves nothing: the nonce may not be consumed yet, or so long ago that
        the nodes do not keep the state of that height.
        """

    def latest_block(self) -> Block:
        """Return the head of the chain."""

    def block(self, number: int) -> Block | None:
        """Return the canonical block at *number*, if the node has it."""

    def node_statuses(
        self, sender: str, tx_hashes: Sequence[str]
    ) -> Sequence[NodeStatus]:
        """
        Return what each node says of *sender* and of *tx_hashes*, in their order.

        For people who look for a reason; nothing is decided by it.  Never raises.
        """
