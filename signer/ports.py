"""
The seams: what the core asks of the outside world, and the values that cross.

Each capability is its own Protocol.  mypy proves that the backends fit where
``api/bootstrap.py`` assigns them; ``tests/contract`` proves it at run time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, NewType, Protocol

from signer.audit.record import Record, Sealed
from signer.keys import Key, Standing
from signer.refunds.limits import NO_LIMITS, Limits
from signer.refunds.refund import (
    InFlight,
    Move,
    Page,
    Refund,
    SignedTransaction,
    Status,
)
from signer.refunds.wallet import Pause, Sighting, Wallet


KeyId = NewType("KeyId", str)
"""Names a key by what never moves: a KMS key ARN, or a CKA_ID in hex."""

Clock = Callable[[], datetime]
"""Answers with the present, in UTC."""


def utc_now() -> datetime:
    """Return the present; the one clock that is not a test's."""
    return datetime.now(UTC)


class KeyBackend(Protocol):
    """
    Where private keys live.  A backend signs digests and knows nothing else.

    Both answers are DER, whatever the device speaks, so that parsing, EIP-2 and
    recovery are written once and every backend runs the same lines.

    Both raise children of ``SigningError``, and ``InvalidInputError`` for what is not
    a digest; nothing else.
    """

    @property
    def name(self) -> str:
        """How audit records call this backend: ``aws-kms``, ``pkcs11``."""

    def public_key(self, key_id: KeyId) -> bytes:
        """Return the DER ``SubjectPublicKeyInfo`` (RFC 5480) of *key_id*."""

    def sign_digest(self, key_id: KeyId, digest: bytes) -> "DeviceSignature":
        """Return a DER ``ECDSA-Sig-Value`` (RFC 3279) over *digest*, as given."""


@dataclass(frozen=True, slots=True)
class DeviceSignature:
    """
    What a device answered, not yet believed.

    ``request_id`` is the device's own name for the call (KMS: the request id
    that CloudTrail records), so that the two logs can be matched.  ``attempts`` counts
    the calls, of which the last one has that name: an answer can be lost.
    """

    der: bytes
    request_id: str | None = None
    attempts: int = 1

    def __repr__(self) -> str:
        """Signature bytes never reach a log."""
        return f"DeviceSignature(request_id={self.request_id!r})"


class KeyDirectory(KeyBackend, Protocol):
    """A backend that knows keys by the names that operators give them."""

    def resolve(self, name: str) -> KeyId:
        """
        Return what never moves of the key that *name* means at this moment.

        Raises:
            InvalidInputError: *name* is no key's name here, whatever keys there are.
            KeyNotFoundError, KeyUnusableError, BackendError: It cannot be used.
        """


class KeyGenerator(KeyBackend, Protocol):
    """A backend that can make keys.  Only provisioning and rotation ask for it."""

    def generate(self, label: str) -> KeyId:
        """Make a new non-extractable secp256k1 key and return its id."""


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


Whereabouts = Literal["mined", "pending", "unknown"]
"""Where one node has a transaction; ``unknown`` proves nothing."""


@dataclass(frozen=True, slots=True)
class NodeView:
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
    transactions: Mapping[str, Whereabouts] = field(default_factory=dict)
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

    def views(self, sender: str, tx_hashes: Sequence[str]) -> Sequence[NodeView]:
        """
        Return what each node says of *sender* and of *tx_hashes*, in their order.

        For people who look for a reason; nothing is decided by it.  Never raises.
        """


class Store(Protocol):
    """
    The ledger of refunds.  Every method is one transaction.

    Any number of processes may share it: the constraints of the schema, and the
    version that every change compares, decide who was first.
    All raise ``StoreUnavailableError`` when the database does not answer.
    """

    def find(self, client: str, idempotency_key: str) -> Refund | None:
        """Return the refund that this client's key made, if it made one."""

    def accept(self, refund: Refund) -> tuple[Refund, bool]:
        """
        Insert a queued refund, or find the one that this client's key made.

        Returns:
            The stored refund, and whether this call created it.

        Raises:
            IdempotencyMismatchError: The key was used with another fingerprint.
            ConflictError: Another key already asked for the same reference.
        """

    def get(self, refund_id: str) -> Refund | None:
        """Return one refund."""

    def list(
        self,
        client: str,
        *,
        payment_session_id: str | None = None,
        status: Status | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """Return a client's refunds, newest first, from behind *cursor*."""

    def claim(self, now: datetime, until: datetime, limit: int) -> Sequence[Refund]:
        """
        Take up refunds that are due, those first that wait longest.

        Until *until* nobody else does.  A claim is a change like any other: whoever
        had the refund before and wakes up late finds its version gone.  What is due
        much later than any claim or delay lasts was dated by a clock that was wrong,
        and counts as due.
        """

    def in_flight(self, limit: int, after: str | None = None) -> Sequence[InFlight]:
        """
        Return refunds that were sent and are not final, oldest first.

        *after* is the id of the last one of the previous batch.
        """

    def open_below(
        self, chain_id: int, sender: str, nonce: int, limit: int
    ) -> Sequence[Refund]:
        """Return open refunds of a wallet with nonces below *nonce*, lowest first."""

    def reserve(
        self,
        refund: Refund,
        *,
        sender: str,
        key_id: str,
        gas_limit: int,
        counted: int,
        at: datetime,
        limits: Limits = NO_LIMITS,
        intent: Record | None = None,
    ) -> Refund:
        """
        Give a queued refund its nonce for life, in one transaction.

        The nonce is one past the highest that any row holds for this chain and sender.
        *counted* is what the chain counts.  *limits* bound what all refunds of its
        token together may pay, whoever reserves at the same time.  *intent* is written
        with it, and the refund that is returned is ``intended`` then.

        Raises:
            KeyRotatedError: *sender* is not the active key's any more, or that is not
                in *key_id* any more.
            LimitReachedError: It would pay too much.
            StaleStateError: The refund is not as *refund* says any more, or a sighting
                has paid it; its wallet is paused or not opened; or *counted* is ahead
                of the ledger.
        """

    def save(
        self,
        before: Refund,
        after: Refund,
        transaction: SignedTransaction | None = None,
        outcome: Record | None = None,
    ) -> None:
        """
        Replace *before* by *after*, and record *transaction*, or do nothing.

        *outcome* is what the audit says of the transaction's signature.

        Raises:
            StaleStateError: The stored version is not that of *before*.
        """

    def transactions(self, refund_id: str) -> Sequence[SignedTransaction]:
        """Return everything that was ever signed for a refund, first one first."""

    def history(self, refund_id: str) -> Sequence[Move]:
        """Return the moves of a refund, first one first."""

    def answer(self, refund_id: str) -> str | None:
        """Return what the request that made this refund was answered, if it was."""

    def remember_answer(self, refund_id: str, body: str, at: datetime) -> str:
        """Keep *body* as that answer, and return it; or the one that was first."""

    def wallet(self, chain_id: int, sender: str) -> Wallet | None:
        """Return the wallet, if it was opened."""

    def wallets(self) -> Sequence[Wallet]:
        """Return every wallet that was opened, by chain and address."""

    def open_wallet(self, wallet: Wallet) -> None:
        """Begin to keep the nonces of *wallet*, unless somebody did before."""

    def pause(self, wallet: Wallet, reason: Pause, at: datetime) -> None:
        """
        Give out no more nonces of *wallet*.

        Raises:
            StaleStateError: The stored version is not that of *wallet*.
        """

    def sight(self, wallet: Wallet, seen: Sequence[Sighting]) -> None:
        """
        Write down what the chain had and the ledger did not.

        What was sighted before stays as it was.

        Raises:
            StaleStateError: The stored version is not that of *wallet*.
        """

    def foreign(self, chain_id: int, sender: str) -> Sequence[Sighting]:
        """Return the foreign sightings that nobody accepted yet, lowest nonce first."""

    def resume(self, wallet: Wallet, at: datetime) -> None:
        """
        Give out nonces of *wallet* again, and accept its foreign sightings.

        Raises:
            StaleStateError: The stored version is not that of *wallet*.
        """

    def stop(self, chain_id: int, at: datetime) -> bool:
        """
        Give out no more nonces on a chain, whatever its wallets; say if it was going.

        Once this returns, no reservation is under way either.
        """

    def stopped(self, chain_id: int) -> datetime | None:
        """Return since when a chain is stopped."""

    def go_on(self, chain_id: int) -> bool:
        """Let a chain that was stopped go on; say whether it was."""

    def sighting(self, chain_id: int, mark: bytes) -> Sighting | None:
        """Return a sighting, of any wallet, that paid the refund with *mark*."""

    def adopt(self, before: Refund, after: Refund) -> None:
        """
        Replace a queued refund by the mined one that a sighting made of it.

        Raises:
            StaleStateError: The stored version is not that of *before*, or the nonce
                is another refund's.
        """

    def check(self) -> None:
        """Do nothing, through the database: raises when it is not usable."""


class KeyStore(Protocol):
    """
    The key ring's rows.  Every method is one transaction.

    At most one key is active and at most one pending, by the schema.
    """

    def keys(self) -> Sequence[Key]:
        """Return every key: the latest epoch first, then those that never served."""

    def active_key(self) -> Key | None:
        """Return the key that signs; None before the first one was enrolled."""

    def enrol(self, key: Key) -> Key:
        """
        Make *key* the active one, unless there is an active key.

        Returns:
            The active key, whoever enrolled it.
        """

    def begin_rotation(self, key: Key, now: datetime) -> Key:
        """
        Make *key* the pending one, or take up its rotation again.

        A pending key whose hold is over is not in the way; another one becomes what it
        was before.

        Raises:
            RotationInProgressError: Somebody holds the pending key.
        """

    def wait_for(self, key: Key, blocked_by: str, at: datetime) -> Key:
        """
        Keep a pending *key* pending, and let go of it; *blocked_by* says why.

        Raises:
            StaleStateError: The stored version is not that of *key*.
        """

    def reject(self, key: Key, reason: str, at: datetime) -> Key:
        """
        End the rotation to a pending *key*: rejected, or draining as it was before.

        Raises:
            StaleStateError: The stored version is not that of *key*.
        """

    def activate(
        self, key: Key, at: datetime, record: Record, *, block: bool = False
    ) -> Key:
        """
        Make a pending *key* the active one, and the active one draining or blocked.

        Once this returns, no reservation with the old key is under way either.  With
        *block*, refunds that it has a nonce for and never signed are queued again: the
        one case in which a refund loses its nonce, since no signature can be out.
        *record* is written with it.

        Raises:
            StaleStateError: The stored version is not that of *key*.
        """

    def block(self, key: Key, at: datetime, record: Record) -> Key:
        """
        Give up a former *key* as compromised: it signs nothing any more.

        Refunds that it never signed are queued again, as ``activate`` does it.

        Raises:
            StaleStateError: The stored version is not that of *key*, or it is neither
                draining nor retired.
        """

    def relocate(self, key: Key, key_id: str, at: datetime, record: Record) -> Key:
        """
        Pin *key*, which may sign, to another place: *key_id*.  All else stays.

        Once this returns, no intent to sign in the old place becomes durable any more.
        *record* is written with it.

        Raises:
            RotationInProgressError: Somebody holds the pending key.
            ConflictError: *key_id* is another key's of the ring.
            StaleStateError: The stored version is not that of *key*, or it may sign
                nothing.
        """

    def stranded(self, address: str, limit: int) -> Sequence[str]:
        """Return the ids of open refunds with nonces of *address*, oldest first."""

    def retire(
        self, settled: Sequence[str], at: datetime, draft: Callable[[Key], Record]
    ) -> Sequence[tuple[Key, Record]]:
        """
        Retire the draining keys that no open refund has, and no paused wallet.

        Only those with an address in *settled*.

        Returns:
            Each with the record that *draft* made of it, and that was written with it.
        """


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """
    A signed statement about the chain's first ``size`` records.

    ``note`` is text: what was signed, and the signature (C2SP signed-note).
    """

    size: int
    note: str
    at: datetime


class Journal(Protocol):
    """The records of the audit, in the order in which they were sealed."""

    def append(
        self, records: Sequence[Record], *, standing: Standing | None = None
    ) -> None:
        """
        Make *records* durable, all or none.

        Raises:
            KeyRotatedError: No key of the ring has this *standing*.
            StoreError: The database cannot be written.
        """

    def seal(self, limit: int = 1000) -> int | None:
        """
        Give the oldest unsealed records their places in the chain; return how many.

        None while another process is at it.
        """

    def head(self) -> tuple[int, bytes]:
        """Return the number of sealed records, and the hash of the last one."""

    def sealed(self, after: int, limit: int) -> Sequence[Sealed]:
        """Return sealed records from behind place *after*, in their order."""

    def oldest_unsealed(self) -> str | None:
        """Return the id of the record that has waited longest for its seal."""

    def keep_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Keep *checkpoint*, unless there is one of the same size."""

    def checkpoints(self, after: int = 0) -> Sequence[Checkpoint]:
        """Return the checkpoints of more than *after* records, smallest first."""


class Callers(Protocol):
    """What all processes must know of those who call them."""

    def use_token(self, jti: str, expires_at: datetime, now: datetime) -> bool:
        """
        Say whether this is the first use of a token that works once.

        It is remembered until *expires_at*; what expired before *now* is forgotten.
        """

    def count(self, bucket: str, period: int, amount: int = 1) -> int:
        """
        Add *amount* to what *bucket* has counted in *period*; return the sum.

        *period* is any number that grows with time; much older ones are forgotten.
        """


class AlertCounters(Protocol):
    """How often each alert was raised, by any process."""

    def count_alert(self, name: str, at: datetime) -> None:
        """Count one more."""

    def alert_counts(self) -> Mapping[str, int]:
        """Return the counts by name."""


class Notifier(Protocol):
    """Somebody outside who is told of alerts."""

    def notify(self, document: Mapping[str, object]) -> None:
        """Tell them, now or in a while; never raises."""


class Ledger(Store, KeyStore, Journal, Callers, AlertCounters, Protocol):
    """All that one database offers."""
