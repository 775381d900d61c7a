"""
The facts as Cedar sees them: the attributes of ``context``, and the schema.

Cedar's ``Long`` has 64 bits and its ``decimal`` four digits after the point, so that
wei and base units do not fit.  Amounts are therefore shown in whole tokens, rounded up,
and at most the largest ``decimal``: a rule that bounds an amount from above never
allows more than its number.  Limits of the configuration are compared exactly, and
rules see the result as ``exceeded``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Any, NamedTuple

from signer.config.networks import GWEI, PRICE_DECIMALS
from signer.policy.facts import (
    AnyFacts,
    AuthorizationFacts,
    DigestFacts,
    MessageFacts,
    Path,
    TransactionFacts,
    TypedDataFacts,
)


MAX_LONG = 2**63 - 1

COIN_DECIMALS = 18
_PLACES = 10**4  # Cedar's decimal.

_WEEKDAYS = (
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
)


@dataclass(frozen=True, slots=True)
class Attribute:
    """
    One attribute of ``context``: its name, Cedar type and meaning.

    ``read`` returns its value in Cedar's JSON; None if there is none, which only an
    optional attribute may return.
    """

    name: str
    type: str
    meaning: str
    read: Callable[[Any], Any]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class SignatureKind:
    """A kind of signature: its name in Cedar, and what rules know about it."""

    name: str
    meaning: str
    facts: type[AnyFacts]
    attributes: tuple[Attribute, ...]


def _long(value: int) -> int:
    """Return *value*, or the largest Long if it is larger."""
    return min(value, MAX_LONG)


def decimal(amount: int, decimals: int) -> dict[str, Any]:
    """Return *amount* base units as Cedar's decimal of whole ones, rounded up."""
    scaled = min(-(-amount * _PLACES // 10**decimals), MAX_LONG)
    text = f"{scaled // _PLACES}.{scaled % _PLACES:04d}"
    return {"__extn": {"fn": "decimal", "arg": text}}


def _tokens(facts: Any, amount: int | None) -> dict[str, Any] | None:
    if amount is None or facts.decimals is None:
        return None
    return decimal(amount, facts.decimals)


def _worth(facts: Any) -> dict[str, Any] | None:
    if facts.amount is None or facts.reference_price is None:
        return None
    return decimal(
        facts.amount * facts.reference_price, facts.decimals + PRICE_DECIMALS
    )


def _written(value: object) -> str:
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    return str(value).lower() if isinstance(value, bool) else str(value)


_COMMON = (
    Attribute(
        "path",
        "String",
        "`refund`, `call`, `sweep`, `no-op`, `account`, `json-rpc` or `rest`",
        lambda f: f.caller.path,
    ),
    Attribute(
        "subject",
        "String",
        "the subject of the token",
        lambda f: f.caller.subject,
        optional=True,
    ),
    Attribute(
        "role",
        "String",
        "the role of the token",
        lambda f: f.caller.role,
        optional=True,
    ),
    Attribute(
        "process",
        "String",
        "the process: `worker`, `api` or `admin`",
        lambda f: f.caller.process,
        optional=True,
    ),
    Attribute("sender", "String", "the address that signs", lambda f: f.sender.lower()),
    Attribute(
        "date",
        "String",
        "the day in UTC, such as `2026-11-27`",
        lambda f: f.at.astimezone(UTC).date().isoformat(),
    ),
    Attribute(
        "hour", "Long", "the hour in UTC, 0 to 23", lambda f: f.at.astimezone(UTC).hour
    ),
    Attribute(
        "weekday",
        "String",
        "the day in UTC: `monday` to `sunday`",
        lambda f: _WEEKDAYS[f.at.astimezone(UTC).weekday()],
    ),
)

_SERVICE_WALLET = Attribute(
    "service_wallet",
    "Bool",
    "`account`, `json-rpc` and `rest` only: whether the service pays refunds from the"
    " address that signs, so that it pauses when it finds the nonce",
    lambda f: f.is_service_wallet,
)


def _paid(facts: Any) -> tuple[int | None, int]:
    """Return amount and decimals of what is paid: on the path ``call``, of coin."""
    if facts.caller.path is Path.CALL:
        return facts.value, COIN_DECIMALS
    return facts.amount, facts.decimals


def _spent(owner: str, period: str) -> Callable[[Any], Any]:
    """
    Return what reads the sum of *period*, with the payment that is decided about.

    *owner* is the field of ``PaymentTotals``.
    """

    def read(facts: Any) -> dict[str, Any] | None:
        amount, decimals = _paid(facts)
        if facts.totals is None or amount is None:
            return None
        spent = getattr(getattr(facts.totals, owner), period)
        return decimal(spent + amount, decimals)

    return read


def _first_paid(facts: Any) -> dict[str, Any] | None:
    amount, decimals = _paid(facts)
    first = None if facts.totals is None else facts.totals.first_paid_amount
    return None if amount is None or first is None else decimal(first, decimals)


# Cedar cannot add decimals, so each sum includes the payment.
_TOTALS = (
    Attribute(
        "spent_hour",
        "decimal",
        "what all tenants spend of the token in this clock hour, with this payment, in"
        " whole tokens; on the path `call`, of coin",
        _spent("spent", "hour"),
        optional=True,
    ),
    Attribute(
        "spent_day",
        "decimal",
        "the same of this clock hour and the 23 before it",
        _spent("spent", "day"),
        optional=True,
    ),
    Attribute(
        "spent_recipient",
        "decimal",
        "the part of `spent_day` that the recipient gets",
        _spent("spent", "recipient"),
        optional=True,
    ),
    Attribute(
        "spent_tenant_hour",
        "decimal",
        "the part of `spent_hour` that the tenant spends",
        _spent("of_tenant", "hour"),
        optional=True,
    ),
    Attribute(
        "spent_tenant_day",
        "decimal",
        "the part of `spent_day` that the tenant spends",
        _spent("of_tenant", "day"),
        optional=True,
    ),
    Attribute(
        "first_payment",
        "Bool",
        "whether no refund of the token to the recipient had a nonce before; on the"
        " path `call`, no call of the address",
        lambda f: None if f.totals is None else f.totals.is_first_payment,
        optional=True,
    ),
    Attribute(
        "first_paid_hours",
        "Long",
        "how many whole clock hours ago the first refund of the token to the recipient"
        " was confirmed; absent if none was",
        lambda f: None if f.totals is None else f.totals.first_paid_hours,
        optional=True,
    ),
    Attribute(
        "first_paid_amount",
        "decimal",
        "the amount of that refund, in whole tokens",
        _first_paid,
        optional=True,
    ),
)

TOTALS = frozenset(each.name for each in _TOTALS)
"""The attributes about earlier payments: refunds have them until they get a nonce."""

_TRANSACTION = (
    *_COMMON,
    _SERVICE_WALLET,
    Attribute(
        "network",
        "String",
        "the network's name in `NETWORKS_FILE`",
        lambda f: f.network,
        optional=True,
    ),
    Attribute("chain_id", "Long", "the chain id", lambda f: _long(f.chain_id)),
    Attribute(
        "shape",
        "String",
        "`token-transfer`: `transfer` of a configured token, without coin;"
        " `coin-transfer`: coin without calldata; `empty`: neither; `creation`; or"
        " `call`",
        lambda f: f.shape,
    ),
    Attribute("type", "Long", "the transaction's type, 0 to 4", lambda f: f.type),
    Attribute("nonce", "Long", "the nonce", lambda f: _long(f.nonce)),
    Attribute("gas", "Long", "the gas limit", lambda f: _long(f.gas)),
    Attribute(
        "max_fee_gwei",
        "Long",
        "the highest fee per gas in gwei, rounded up",
        lambda f: _long(-(-f.max_fee_per_gas // GWEI)),
    ),
    Attribute(
        "priority_fee_gwei",
        "Long",
        "the priority fee per gas in gwei, rounded up",
        lambda f: _long(-(-f.max_priority_fee_per_gas // GWEI)),
    ),
    Attribute(
        "max_cost",
        "decimal",
        "the highest cost of the gas, in whole coins",
        lambda f: decimal(f.gas * f.max_fee_per_gas, COIN_DECIMALS),
    ),
    Attribute(
        "value", "decimal", "the coin, in whole coins", lambda f: decimal(f.value, 18)
    ),
    Attribute("has_value", "Bool", "whether there is any coin", lambda f: f.value > 0),
    Attribute(
        "to",
        "String",
        "the address that is called; absent for a creation",
        lambda f: f.to,
        optional=True,
    ),
    Attribute(
        "blobs", "Long", "the number of blobs (EIP-4844)", lambda f: _long(f.blobs)
    ),
    Attribute(
        "authorizations",
        "Long",
        "the number of authorisations (EIP-7702)",
        lambda f: _long(f.authorizations),
    ),
    Attribute(
        "access_list",
        "Long",
        "the number of addresses in the access list",
        lambda f: _long(f.access_list),
    ),
    Attribute(
        "data_bytes", "Long", "the bytes of the calldata", lambda f: f.data_bytes
    ),
    Attribute(
        "selector",
        "String",
        "the first four bytes of the calldata, such as `0xa9059cbb`",
        lambda f: f.selector,
        optional=True,
    ),
    Attribute(
        "function",
        "String",
        "a known function, such as `transfer(address,uint256)`",
        lambda f: f.function,
        optional=True,
    ),
    Attribute(
        "arguments",
        "Set<String>",
        "its arguments, such as `amount=12500000` (base units)",
        lambda f: [f"{name}={_written(value)}" for name, value in f.arguments],
    ),
    Attribute(
        "calldata",
        "String",
        "`exact`: a known function and its arguments; `marked`: and the mark of the"
        " refund that is paid; `extra`: and other bytes; `malformed`: a known function"
        " with arguments that are not in canonical encoding; or `unknown`",
        lambda f: f.calldata,
    ),
    Attribute(
        "allowance",
        "Bool",
        "whether another address could take tokens later: `approve`,"
        " `increaseAllowance`, `setApprovalForAll`, `permit`, also inside `multicall`",
        lambda f: f.grants_allowance,
    ),
    Attribute(
        "extra_bytes",
        "Long",
        "the bytes after the arguments of a known function",
        lambda f: f.extra_bytes,
    ),
    Attribute(
        "token",
        "String",
        "the symbol of the configured token whose contract is called",
        lambda f: f.token,
        optional=True,
    ),
    Attribute(
        "amount",
        "decimal",
        "the amount of a configured token, in whole tokens",
        lambda f: _tokens(f, f.amount),
        optional=True,
    ),
    Attribute(
        "worth",
        "decimal",
        "`amount` times the `reference_price` of the token, if it has one",
        _worth,
        optional=True,
    ),
    Attribute(
        "recipient",
        "String",
        "who receives the tokens or the coin",
        lambda f: f.recipient,
        optional=True,
    ),
    Attribute(
        "recipient_kind",
        "String",
        "`other`; `active`, `own` or `self`: a key of ours; `token`: the contract of a"
        " token; `zero`; or `none`",
        lambda f: f.recipient_kind,
    ),
    Attribute(
        "spender",
        "String",
        "who gets an allowance",
        lambda f: f.spender,
        optional=True,
    ),
    Attribute(
        "exceeded",
        "Set<String>",
        "the limits of the configuration that it exceeds: `chain-id`, `gas`, `max-fee`,"
        " `max-amount`, `min-amount`; on the path `refund` also `approve-above`",
        lambda f: sorted(f.exceeded),
    ),
    Attribute(
        "denied",
        "Bool",
        "whether `DENY_LIST_FILE` has the recipient, the spender or the address that is"
        " called",
        lambda f: f.is_denied,
    ),
    *_TOTALS,
)

_MESSAGE = (
    *_COMMON,
    Attribute(
        "version", "String", "`personal` or `validator` (EIP-191)", lambda f: f.version
    ),
    Attribute("length", "Long", "the bytes of the message", lambda f: f.length),
    Attribute(
        "text", "String", "the message, if it is UTF-8", lambda f: f.text, optional=True
    ),
    Attribute(
        "validator",
        "String",
        "the contract that a `validator` message is for",
        lambda f: f.validator,
        optional=True,
    ),
)

_TYPED_DATA = (
    *_COMMON,
    Attribute(
        "network",
        "String",
        "the network's name in `NETWORKS_FILE`",
        lambda f: f.network,
        optional=True,
    ),
    Attribute(
        "chain_id",
        "Long",
        "the chain id of the domain",
        lambda f: None if f.chain_id is None else _long(f.chain_id),
        optional=True,
    ),
    Attribute(
        "domain_name",
        "String",
        "the name of the domain",
        lambda f: f.domain_name,
        optional=True,
    ),
    Attribute(
        "verifying_contract",
        "String",
        "the contract of the domain",
        lambda f: f.verifying_contract,
        optional=True,
    ),
    Attribute(
        "primary_type", "String", "the type of the message", lambda f: f.primary_type
    ),
    Attribute(
        "kind",
        "String",
        "the recognised form of it, such as `erc2612-permit`; `unknown`; or `unseen` if"
        " only its hashes were given",
        lambda f: f.kind,
    ),
    Attribute(
        "allowance",
        "Bool",
        "whether another address could take tokens with it: a permit or an order",
        lambda f: f.grants_allowance,
    ),
    Attribute(
        "names_token",
        "Bool",
        "whether the address of a configured token is anywhere in it",
        lambda f: f.names_token,
    ),
    Attribute(
        "calldata",
        "String",
        "`malformed`: it contains the call of a known function that is not in canonical"
        " encoding; otherwise `unknown`",
        lambda f: f.calldata,
    ),
    Attribute(
        "exceeded",
        "Set<String>",
        "the limits of the configuration that it exceeds: `max-amount`",
        lambda f: sorted(f.exceeded),
    ),
    Attribute(
        "denied",
        "Bool",
        "whether `DENY_LIST_FILE` has an address in it, or in a call that it contains",
        lambda f: f.is_denied,
    ),
    Attribute(
        "spender",
        "String",
        "who gets an allowance",
        lambda f: f.spender,
        optional=True,
    ),
    Attribute(
        "recipient",
        "String",
        "who gets the tokens, if the document names it",
        lambda f: f.recipient,
        optional=True,
    ),
    Attribute(
        "token",
        "String",
        "the symbol of the configured token",
        lambda f: f.token,
        optional=True,
    ),
    Attribute(
        "amount",
        "decimal",
        "the amount of it, in whole tokens",
        lambda f: _tokens(f, f.amount),
        optional=True,
    ),
)

_AUTHORIZATION = (
    *_COMMON,
    _SERVICE_WALLET,
    Attribute("chain_id", "Long", "the chain id", lambda f: _long(f.chain_id)),
    Attribute("delegate", "String", "the contract", lambda f: f.delegate),
)

ACTIONS = (
    SignatureKind(
        "sign-transaction", "a transaction of any type", TransactionFacts, _TRANSACTION
    ),
    SignatureKind("sign-message", "a message (EIP-191)", MessageFacts, _MESSAGE),
    SignatureKind(
        "sign-typed-data", "typed data (EIP-712)", TypedDataFacts, _TYPED_DATA
    ),
    SignatureKind("sign-digest", "32 bytes without a meaning", DigestFacts, _COMMON),
    SignatureKind(
        "sign-authorization",
        "an authorisation that delegates the account (EIP-7702)",
        AuthorizationFacts,
        _AUTHORIZATION,
    ),
)

BY_FACTS: Mapping[type, SignatureKind] = {action.facts: action for action in ACTIONS}


class Entity(NamedTuple):
    """An entity of Cedar; its JSON has these two fields."""

    type: str
    id: str


def principal(facts: AnyFacts) -> Entity:
    """Return who asks: a tenant, or the service on one of its own paths."""
    caller = facts.caller
    if caller.tenant is None:
        return Entity("Service", caller.path)
    return Entity("Tenant", caller.tenant)


def resource(facts: AnyFacts) -> Entity:
    """Return the configured network, another chain, or the wallet if there is none."""
    network = getattr(facts, "network", None)
    if network is not None:
        return Entity("Network", network)
    chain_id = getattr(facts, "chain_id", None)
    if chain_id is not None:
        return Entity("Chain", str(chain_id))
    return Entity("Wallet", facts.sender.lower())


def build_schema() -> str:
    """Return Cedar's schema, against which every rule is validated."""
    lines = ["entity Tenant;", "entity Service;"]
    lines += ["entity Network;", "entity Chain;", "entity Wallet;", ""]
    for action in ACTIONS:
        lines += [
            f'action "{action.name}" appliesTo {{',
            "  principal: [Tenant, Service],",
            "  resource: [Network, Chain, Wallet],",
            "  context: {",
            *(
                f"    {each.name}{'?' if each.optional else ''}: {each.type},"
                for each in action.attributes
            ),
            "  },",
            "};",
            "",
        ]
    return "\n".join(lines)
