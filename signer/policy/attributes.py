"""
The facts as Cedar sees them: the attributes of ``context``, and the schema.

``attributes.toml`` declares the attributes.

Cedar's ``Long`` has 64 bits and its ``decimal`` four digits after the point, so that
wei and base units do not fit.  Amounts are therefore shown in whole tokens, rounded up,
and at most the largest ``decimal``: a rule that bounds an amount from above never
allows more than its number.  Limits of the configuration are compared exactly, and
rules see the result as ``exceeded``.
"""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from importlib.resources import files
from operator import attrgetter
from typing import Any, NamedTuple

from signer.amounts import COIN_DECIMALS
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


def _of_totals(name: str) -> Callable[[Any], Any]:
    return lambda f: None if f.totals is None else getattr(f.totals, name)


# Cedar cannot add decimals, so each sum includes the payment.
_READ: Mapping[str, Callable[[Any], Any]] = {
    "path": lambda f: f.caller.path,
    "subject": lambda f: f.caller.subject,
    "role": lambda f: f.caller.role,
    "process": lambda f: f.caller.process,
    "sender": lambda f: f.sender.lower(),
    "date": lambda f: f.at.astimezone(UTC).date().isoformat(),
    "hour": lambda f: f.at.astimezone(UTC).hour,
    "weekday": lambda f: _WEEKDAYS[f.at.astimezone(UTC).weekday()],
    "service_wallet": lambda f: f.is_service_wallet,
    "max_fee_gwei": lambda f: _long(-(-f.max_fee_per_gas // GWEI)),
    "priority_fee_gwei": lambda f: _long(-(-f.max_priority_fee_per_gas // GWEI)),
    "max_cost": lambda f: decimal(f.gas * f.max_fee_per_gas, COIN_DECIMALS),
    "value": lambda f: decimal(f.value, COIN_DECIMALS),
    "has_value": lambda f: f.value > 0,
    "arguments": lambda f: [f"{name}={_written(value)}" for name, value in f.arguments],
    "allowance": lambda f: f.grants_allowance,
    "amount": lambda f: _tokens(f, f.amount),
    "worth": _worth,
    "exceeded": lambda f: sorted(f.exceeded),
    "denied": lambda f: f.is_denied,
    "spent_hour": _spent("spent", "hour"),
    "spent_day": _spent("spent", "day"),
    "spent_recipient": _spent("spent", "recipient"),
    "spent_tenant_hour": _spent("of_tenant", "hour"),
    "spent_tenant_day": _spent("of_tenant", "day"),
    "first_payment": _of_totals("is_first_payment"),
    "first_paid_hours": _of_totals("first_paid_hours"),
    "first_paid_amount": _first_paid,
}
"""How attributes are read that are no field of the facts with the same name."""


def _attribute(name: str, declared: str) -> Attribute:
    type_, _, meaning = declared.partition(": ")
    read = _READ.get(name) or _field(name, is_number=type_.startswith("Long"))
    return Attribute(name, type_.rstrip("?"), meaning, read, type_.endswith("?"))


def _field(name: str, *, is_number: bool) -> Callable[[Any], Any]:
    if not is_number:
        return attrgetter(name)

    def read(facts: Any) -> int | None:
        value: int | None = getattr(facts, name)
        return None if value is None else _long(value)

    return read


_TABLES = {
    table: tuple(_attribute(*each) for each in rows.items())
    for table, rows in tomllib.loads(
        files("signer.policy").joinpath("attributes.toml").read_text(encoding="utf-8")
    ).items()
}

TOTALS = frozenset(each.name for each in _TABLES["totals"])
"""The attributes about earlier payments: refunds have them until they get a nonce."""


def _kind(
    name: str, meaning: str, facts: type[AnyFacts], *tables: str
) -> SignatureKind:
    attributes = (each for table in ("common", *tables) for each in _TABLES[table])
    return SignatureKind(name, meaning, facts, tuple(attributes))


ACTIONS = (
    _kind(
        "sign-transaction",
        "a transaction of any type",
        TransactionFacts,
        "transaction",
        "totals",
    ),
    _kind("sign-message", "a message (EIP-191)", MessageFacts, "message"),
    _kind("sign-typed-data", "typed data (EIP-712)", TypedDataFacts, "typed-data"),
    _kind("sign-digest", "32 bytes without a meaning", DigestFacts),
    _kind(
        "sign-authorization",
        "an authorisation that delegates the account (EIP-7702)",
        AuthorizationFacts,
        "authorization",
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
