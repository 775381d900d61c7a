"""
Examples of what a policy must allow and refuse, from a TOML or JSON file.

::

    [defaults]
    chainId = 31337
    nonce = 0
    gas = 60000
    maxFeePerGas = 3000000000
    maxPriorityFeePerGas = 1000000000

    [[example]]
    name = "an approval"
    paths = ["json-rpc", "rest"]
    tenant = "shop"
    verdict = "refuse"
    rule = "allowance"
    transaction = { to = "0x5FbD...", data = "0x095ea7b3..." }

Instead of a ``transaction`` an example may have a ``message`` (text, or hex with 0x),
``typed_data`` (the document, or its JSON), a ``digest``, or an ``authorization``.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from signer.amounts import COIN_DECIMALS, parse_units
from signer.clear_signing.typed_data import recognise
from signer.config.models import StrictModel, as_tuple
from signer.config.networks import Network
from signer.config.tenants import TenantRegistry
from signer.crypto.messages import PersonalMessage, message_digest
from signer.crypto.transaction_json import parse_transaction
from signer.crypto.typed_data import TypedData
from signer.errors import ConfigurationError, InvalidInputError, Refusal
from signer.model.decision import Decision, Verdict
from signer.model.spending_limits import PaymentTotals, Spent
from signer.policy.facts import (
    AnyFacts,
    Caller,
    KnownNetwork,
    OwnKeys,
    Path,
    Surroundings,
    TransactionFacts,
)
from signer.policy.message_facts import (
    authorization_facts,
    digest_facts,
    message_facts,
    typed_data_facts,
)
from signer.policy.policy import AnyPolicy
from signer.policy.transaction_facts import transaction_facts


_KINDS = ("transaction", "message", "typed_data", "digest", "authorization")

_CLIENTS = (Path.JSON_RPC, Path.REST)  # They sign with the service's active key.

_SENDER = "0x" + "5e" * 20

_DIGEST_SIZE = 32

_NOT_EVALUATED = bytes(_DIGEST_SIZE)
"""In place of a digest that no rule sees."""


def _read_verdict(value: Any) -> Verdict:
    # pydantic cannot call the class itself: Python 3.14 shows it as ``(*values)``.
    return Verdict(value)


def _read_time(value: object) -> object:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def _read_paths(value: object) -> object:
    return tuple(map(Path, value)) if isinstance(value, list) else value


class ServiceAddresses(StrictModel):
    """
    The addresses of the service: the one that signs, the active one, others.

    With *service_wallet*, an account that signs has the key of a service's wallet.
    """

    sender: str = _SENDER
    service_wallet: bool = False
    active: str | None = None
    own: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = ()


class PaidBefore(StrictModel):
    """
    What was paid before a refund, in whole tokens; without a number, nothing.

    *first_paid_hours* ago, the first of these payments was confirmed.
    """

    hour: str | None = None
    day: str | None = None
    recipient: str | None = None
    tenant_hour: str | None = None
    tenant_day: str | None = None
    first_payment: bool = False
    first_paid_hours: int | None = None
    first_paid_amount: str | None = None

    def count(self, decimals: int) -> PaymentTotals:
        """Return the totals of a token with *decimals*; as ``parse_units``."""

        def units(amount: str | None) -> int:
            return 0 if amount is None else parse_units(amount, decimals)

        return PaymentTotals(
            Spent(units(self.hour), units(self.day), units(self.recipient), gas=0),
            Spent(units(self.tenant_hour), units(self.tenant_day), recipient=0, gas=0),
            is_first_payment=self.first_payment,
            first_paid_hours=self.first_paid_hours,
            first_paid_amount=None
            if self.first_paid_amount is None
            else units(self.first_paid_amount),
        )


class Example(StrictModel):
    """
    One signature, the *paths* to it, and the *verdict* that it must get.

    With *paid_before*, it is asked about as before the reservation of a nonce.
    """

    name: str
    paths: Annotated[tuple[Path, ...], BeforeValidator(_read_paths)] = Field(
        min_length=1
    )
    verdict: Annotated[Verdict, BeforeValidator(_read_verdict)]
    rule: str | None = None
    tenant: str | None = None
    subject: str | None = None
    role: str | None = None
    network: str | None = None
    memo: str | None = None
    paid_before: PaidBefore | None = None
    time: Annotated[datetime, BeforeValidator(_read_time)] | None = None
    transaction: dict[str, Any] | None = None
    message: str | None = None
    typed_data: dict[str, Any] | str | None = None
    digest: str | None = None
    authorization: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _is_one_signature(self) -> Self:
        given = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"needs exactly one of {', '.join(_KINDS)}")
        return self


class Examples(StrictModel):
    """A file of examples; *defaults* are fields of transactions."""

    defaults: dict[str, Any] = Field(default_factory=dict)
    keys: ServiceAddresses = ServiceAddresses()
    example: Annotated[tuple[Example, ...], BeforeValidator(as_tuple)] = Field(
        min_length=1
    )


@dataclass(frozen=True, slots=True)
class ExampleOutcome:
    """What the policy decided about an example on one path."""

    example: Example
    path: Path
    facts: AnyFacts
    decision: Decision

    @property
    def is_expected(self) -> bool:
        example, decision = self.example, self.decision
        is_rule = example.rule is None or example.rule == decision.rule
        return example.verdict is decision.verdict and is_rule


def read_examples(text: str, *, is_json: bool) -> Examples:
    try:
        document = json.loads(text) if is_json else tomllib.loads(text)
        return Examples.model_validate(document)
    except ValidationError as e:
        problem = "; ".join(
            f"{'.'.join(map(str, error['loc']))}: {error['msg']}"
            for error in e.errors(include_input=False, include_url=False)
        )
    except ValueError as e:  # Of both parsers.
        problem = str(e)
    raise InvalidInputError(f"the examples cannot be read: {problem}")


def run_examples(
    policy: AnyPolicy,
    examples: Examples,
    networks: Mapping[str, Network],
    tenants: TenantRegistry,
) -> Iterator[ExampleOutcome]:
    """
    Yield what *policy* decides about each example on each of its paths.

    Raises:
        InvalidInputError: An example is malformed; the message names it.
    """
    known = {name: KnownNetwork.of(name, each) for name, each in networks.items()}
    for example in examples.example:
        for path in example.paths:
            try:
                facts = _build(example, path, examples, known, tenants)
            except (InvalidInputError, KeyError, TypeError, ValueError) as e:
                raise InvalidInputError(f"example {example.name!r}: {e}") from None
            yield ExampleOutcome(example, path, facts, policy.evaluate(facts))


def require_examples(
    policy: AnyPolicy,
    text: str,
    networks: Mapping[str, Network],
    tenants: TenantRegistry,
) -> None:
    """Require that *policy* decides as the examples of *text*, in TOML, expect."""
    try:
        examples = read_examples(text, is_json=False)
        outcomes = list(run_examples(policy, examples, networks, tenants))
    except InvalidInputError as e:
        raise ConfigurationError(Refusal("policy-invalid", str(e))) from None
    wrong = [each for each in outcomes if not each.is_expected]
    if wrong:
        raise ConfigurationError(
            *(Refusal("policy-invalid", _describe(each)) for each in wrong)
        )


def _describe(outcome: ExampleOutcome) -> str:
    example, decision = outcome.example, outcome.decision
    return (
        f"the example {example.name!r}, {outcome.path}: expected {example.verdict},"
        f" found {decision.verdict} ({decision.rule})"
    )


def _build(
    example: Example,
    path: Path,
    examples: Examples,
    networks: Mapping[str, KnownNetwork],
    tenants: TenantRegistry,
) -> AnyFacts:
    chain_id = _chain_id(example, examples)
    own = OwnKeys.of((examples.keys.sender, *examples.keys.own), examples.keys.active)
    network = _find_network(example, chain_id, networks)
    known = () if network is None else (network,)
    around = Surroundings(
        Caller(path, example.tenant, example.subject, example.role),
        examples.keys.sender,
        example.time or datetime.now(UTC),
        network,
        own,
        tenants.limits(example.tenant or ""),
        networks=known if chain_id else tuple(networks.values()),
        is_service_wallet=path in _CLIENTS
        or (path is Path.ACCOUNT and examples.keys.service_wallet),
    )
    if example.transaction is not None:
        transaction = parse_transaction(_fields(example, examples))
        memo = None if example.memo is None else _bytes(example.memo)
        facts = transaction_facts(
            transaction, transaction.signing_digest(), around, memo
        )
        return _add_totals(facts, example)
    return _build_message(example, around)


def _add_totals(facts: TransactionFacts, example: Example) -> TransactionFacts:
    if example.paid_before is None:
        return facts
    decimals = facts.decimals
    if facts.caller.path is Path.CALL:
        decimals = COIN_DECIMALS if facts.value else None
    if decimals is None:
        raise InvalidInputError("paid_before needs a payment of a token or of coin")
    return replace(facts, totals=example.paid_before.count(decimals))


def _build_message(example: Example, around: Surroundings) -> AnyFacts:
    if example.message is not None:
        message = PersonalMessage.parse(example.message).signable()
        return message_facts(message, message_digest(message), around)
    if example.typed_data is not None:
        document = TypedData.parse(example.typed_data)
        return typed_data_facts(
            document, recognise(document), document.digest(), around
        )
    if example.authorization is not None:
        given = example.authorization
        return authorization_facts(
            int(given["chainId"]), str(given["address"]), _NOT_EVALUATED, around
        )
    return digest_facts(_bytes(str(example.digest)), around)


def _fields(example: Example, examples: Examples) -> dict[str, Any]:
    """Return the fields of the transaction; one with a gas price has no other fees."""
    given = example.transaction or {}
    defaults = {
        name: value
        for name, value in examples.defaults.items()
        if not ("gasPrice" in given and name.startswith("max"))
    }
    return {**defaults, **given}


def _chain_id(example: Example, examples: Examples) -> object:
    if example.transaction is not None:
        return _fields(example, examples).get("chainId")
    if isinstance(example.typed_data, dict):
        return example.typed_data.get("domain", {}).get("chainId")
    return None


def _find_network(
    example: Example, chain_id: object, networks: Mapping[str, KnownNetwork]
) -> KnownNetwork | None:
    """Return the network that the example names, or else that of its chain."""
    if example.network is not None:
        if example.network not in networks:
            raise InvalidInputError("NETWORKS_FILE has no such network")
        return networks[example.network]
    found = (each for each in networks.values() if each.chain_id == chain_id)
    return next(found, None)


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))
