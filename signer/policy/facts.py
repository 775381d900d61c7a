"""
What the rules may know about one signature.

Facts are made from decoded bytes by ``transaction_facts`` and ``message_facts``, and
from what the path knows by itself: who asks, and which addresses are ours.  A fact that
is None does not exist for the rules.  Numbers are exact here; ``attributes`` shows them
to Cedar.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Self

from signer.amounts import parse_units
from signer.config.networks import NOOP_GAS, PRICE_DECIMALS, Network
from signer.config.tenants import NO_LIMITS, Tenant
from signer.model.spending_limits import PaymentTotals


_GWEI = 10**9  # Not from ``chain``, which loads crypto.


class Path(StrEnum):
    """The ways to a signature.  Each of them asks the policy."""

    REFUND = "refund"
    CALL = "call"
    SWEEP = "sweep"
    NOOP = "no-op"
    ACCOUNT = "account"
    JSON_RPC = "json-rpc"
    REST = "rest"


class Shape(StrEnum):
    """What a transaction does, as far as its bytes show it."""

    TOKEN_TRANSFER = "token-transfer"  # noqa: S105  It is no secret.
    """``transfer`` of a configured token, in canonical encoding, without coin."""
    COIN_TRANSFER = "coin-transfer"
    """Coin, without calldata."""
    EMPTY = "empty"
    """Neither coin nor calldata."""
    CALL = "call"
    """Calldata for any other function, token or contract."""
    CREATION = "creation"
    """It creates a contract."""


class RecipientKind(StrEnum):
    """Who receives the tokens or the coin."""

    ACTIVE = "active"
    """The active key of the service, which is another key than the one that signs."""
    SELF = "self"
    """The key that signs."""
    OWN = "own"
    """Another key of the service."""
    TOKEN = "token"  # noqa: S105  It is no secret.
    """The contract of a configured token, where tokens and coin are lost."""
    ZERO = "zero"
    """The zero address."""
    OTHER = "other"
    """Any other address."""
    NONE = "none"
    """It cannot be seen: neither a transfer nor an empty transaction."""


class Calldata(StrEnum):
    """How the calldata is encoded."""

    UNKNOWN = "unknown"
    """There is none, or no known function has its selector."""
    EXACT = "exact"
    """A known function and its arguments, in canonical encoding."""
    WITH_MEMO = "with-memo"
    """The same, followed by the memo of the refund that is paid."""
    EXTRA = "extra"
    """The same, followed by other bytes."""
    MALFORMED = "malformed"
    """A known function, and the rest cannot be the encoding of its arguments."""


@dataclass(frozen=True, slots=True)
class Caller:
    """
    Who asks for a signature, and on which *path*.

    ``tenant`` is None if the service acts for itself.  ``role`` is that of the token,
    and ``process`` that of the process: ``worker``, ``api`` or ``admin``.
    """

    path: Path
    tenant: str | None = None
    subject: str | None = None
    role: str | None = None
    process: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """
    What all kinds of signatures have.

    *digest* are the 32 bytes that would be signed, with the key of *sender*, and *at*
    is the time in UTC.
    """

    caller: Caller
    digest: bytes = field(repr=False)
    sender: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionFacts(Facts):
    """
    A transaction of any type.

    Fees are in wei per gas, *value* in wei and *amount* in base units of a token with
    *decimals*.  *reference_price* is that of ``KnownToken``.  *network* is None if the
    chain is not configured, and *to* if the transaction creates a contract.  Addresses
    are in lower case.

    *function* is the signature of a known function and *arguments* its arguments;
    *extra_bytes* counts the bytes after them.  *grants_allowance* means that another
    address could take tokens later.  *exceeded* names the limits of the configuration
    that the transaction exceeds.  *is_denied* means that the deny list has the
    recipient, the spender or the address that is called, and *calls_vault* that this is
    the vault of the network.  *totals* are known before a
    refund gets its nonce, and None for all other signatures.  *is_service_wallet* is
    that of ``Surroundings``.
    """

    network: str | None
    chain_id: int
    type: int
    nonce: int
    gas: int
    max_fee_per_gas: int
    max_priority_fee_per_gas: int
    to: str | None
    value: int
    data_bytes: int
    selector: str | None
    shape: Shape
    blobs: int
    authorizations: int
    access_list: int
    function: str | None
    arguments: tuple[tuple[str, object], ...]
    calldata: Calldata
    grants_allowance: bool
    extra_bytes: int
    token: str | None
    decimals: int | None
    amount: int | None
    recipient: str | None
    recipient_kind: RecipientKind
    spender: str | None
    exceeded: frozenset[str]
    reference_price: int | None = None
    is_denied: bool = False
    calls_vault: bool = False
    totals: PaymentTotals | None = None
    is_service_wallet: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageFacts(Facts):
    """
    A message of EIP-191: *version* is ``personal`` (0x45) or ``validator`` (0x00).

    *text* is None if the message is not UTF-8.  A message of 32 bytes may be the hash
    of something else, which a contract accepts as signed.
    """

    version: str
    length: int
    text: str | None
    validator: str | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """
    An *amount* of a configured token, in base units, that a document lets leave.

    *network* and *token* are names of the networks file.  *recipient* is who gets it or
    may take it, with its checksum; or the contract that the document is for.
    """

    network: str
    token: str
    amount: int
    recipient: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedDataFacts(Facts):
    """
    Typed data (EIP-712).

    *kind* is the name of a recognised form, such as ``erc2612-permit``; ``unknown``; or
    ``unseen`` if there are only hashes of it.  *primary_type* is then empty.  *amount*
    is in base units of the token with *decimals*, if it is configured.

    *moved* is what it lets leave of configured tokens, on each network where it is
    valid.  *exceeded* names the limits that this exceeds.  *names_token* means that it
    has the address of a configured token anywhere, and *is_denied* an address of the
    deny list.  *calldata* is how the call is encoded that it permits.
    """

    kind: str
    primary_type: str = ""
    network: str | None = None
    chain_id: int | None = None
    domain_name: str | None = None
    verifying_contract: str | None = None
    grants_allowance: bool = False
    recipient: str | None = None
    spender: str | None = None
    token: str | None = None
    decimals: int | None = None
    amount: int | None = None
    moved: tuple[Moved, ...] = ()
    exceeded: frozenset[str] = frozenset()
    names_token: bool = False
    is_denied: bool = False
    calldata: Calldata = Calldata.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestFacts(Facts):
    """32 bytes without any meaning: they may be the digest of a transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationFacts(Facts):
    """
    An authorisation (EIP-7702): the code of *delegate* gets the whole account.

    It uses a nonce of the account; *is_service_wallet* is that of ``Surroundings``.
    """

    chain_id: int
    delegate: str
    is_service_wallet: bool = False


AnyFacts = (
    TransactionFacts | MessageFacts | TypedDataFacts | DigestFacts | AuthorizationFacts
)


@dataclass(frozen=True, slots=True)
class KnownToken:
    """
    A configured token; amounts are in base units.

    ``reference_price`` is in units of ``10**-PRICE_DECIMALS`` for a whole token.
    """

    symbol: str
    decimals: int
    max_amount: int
    min_amount: int | None
    max_gas: int
    reference_price: int | None = None
    approve_above: int | None = None


@dataclass(frozen=True, slots=True)
class KnownNetwork:
    """
    A configured network, in the form in which transactions are compared with it.

    ``max_fee_per_gas`` is in wei.  ``tokens`` are by their address in lower case, which
    that of the ``vault`` has, too.
    """

    name: str
    chain_id: int
    max_fee_per_gas: int
    tokens: Mapping[str, KnownToken]
    vault: str | None = None
    noop_gas: int = NOOP_GAS

    @classmethod
    def of(cls, name: str, network: Network) -> Self:
        """Return *network* of the networks file, which is called *name* there."""
        tokens = {
            token.address.lower(): KnownToken(
                symbol,
                token.decimals,
                parse_units(token.max_amount, token.decimals),
                _parse(token.min_amount, token.decimals),
                token.max_gas,
                _parse(token.reference_price, PRICE_DECIMALS),
                _parse(token.approve_above, token.decimals),
            )
            for symbol, token in network.tokens.items()
        }
        max_fee = network.max_fee_per_gas_gwei * _GWEI
        vault = network.vault and network.vault.lower()
        gas = network.noop_gas
        return cls(name, network.chain_id, max_fee, tokens, vault, gas)


def _parse(amount: str | None, decimals: int) -> int | None:
    return None if amount is None else parse_units(amount, decimals)


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """The addresses of the service's keys, in lower case."""

    addresses: frozenset[str] = frozenset()
    active: str | None = None

    @classmethod
    def of(cls, addresses: Iterable[str], active: str | None) -> Self:
        lower = frozenset(address.lower() for address in addresses)
        return cls(lower, None if active is None else active.lower())


NO_KEYS = OwnKeys()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """
    What a path knows about a signature, beside the bytes.

    *sender* is the address that signs.  *network* is the one that the path means: the
    chain id of the bytes must be its own.  It is None without one, or if the chain is
    not configured.  *networks* are those on which typed data is valid, which are all if
    it names no chain.  *limits* are those of the caller's tenant, and *denied* the
    addresses of the deny list, in lower case.  *totals* are None if nothing is counted.

    *is_service_wallet* means that the service pays refunds from *sender*, and that the
    path is not one of the service.
    """

    caller: Caller
    sender: str
    at: datetime
    network: KnownNetwork | None = None
    own: OwnKeys = NO_KEYS
    limits: Tenant = NO_LIMITS
    totals: PaymentTotals | None = None
    denied: Collection[str] = ()
    is_service_wallet: bool = False
    networks: Collection[KnownNetwork] = ()
