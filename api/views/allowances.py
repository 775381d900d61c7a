"""What may be refunded, and previews of refunds, as JSON."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from api.views.document import Address, Amount, Count, Document, OneOf, Wei, says
from api.views.problems import ProblemDocument
from signer.amounts import COIN_DECIMALS, format_units
from signer.config.networks import Network
from signer.config.tenants import Tenant
from signer.errors import ApprovalRequiredError, PolicyViolationError
from signer.model.decision import Decision, Verdict
from signer.model.spending_limits import GAS_PER_HOUR, Allowance, Bound, LimitScope
from signer.refunds.preview import (
    DELAYS,
    FeeQuote,
    LimitCheck,
    Preview,
    PreviewOutcome,
    Simulation,
)


def _delay_codes() -> list[str]:
    of_policy = (ApprovalRequiredError.code, PolicyViolationError.code)
    return [*of_policy, *(each.code for each in DELAYS)]


_LIMITS = ("hourly_limit", "daily_limit", "daily_limit_per_recipient", GAS_PER_HOUR)

_Confirmations = Annotated[
    int,
    Field(
        description="Blocks until a refund is `confirmed`.",
        json_schema_extra={"minimum": 1},
    ),
]


class LimitDocument(Document):
    """A limit on all refunds of a time together."""

    name: Annotated[str, OneOf(lambda: _LIMITS)] = says(
        """
        An hour is a clock hour; a day is that hour and the 23 before it. `gas_per_hour`
        counts the gas limits of the network's transactions.
        """
    )
    scope: LimitScope = says(
        "`service`: all tenants share the limit. `tenant`: it is the caller's own."
    )
    limit: Amount = says("Whole tokens; gas for `gas_per_hour`.")


class LimitRoomDocument(LimitDocument):
    """A limit, and what is left of it."""

    room: Amount | None = says(
        """
        What is left. Null for a limit that several tenants share: it would show
        what the others pay.
        """
    )
    fits: bool = says("Whether the refund fits in now. If not, it would wait.")


class TokenDocument(Document):
    """A token that may be refunded."""

    network: str = says("The network's name.")
    chain_id: int = says("The network's chain id.")
    token: str = says("The token's name, as requests use it.", "symbol")
    address: Address = says("The token's contract.", "token.address")
    decimals: Annotated[int, Field(json_schema_extra={"minimum": 0, "maximum": 36})] = (
        says("How many decimals an amount may have.", "token.decimals")
    )
    min_amount: Amount | None = says("The least that one refund pays; null: no bound.")
    max_amount: Amount = says("The most that one refund pays.")
    approve_above: Amount | None = says(
        """
        A larger refund waits for the approval of an administrator; null: none does.
        """
    )
    limits: list[LimitDocument] = says(
        "Limits on all refunds of an hour or a day together; empty: there is none."
    )
    confirmations: _Confirmations

    @classmethod
    def derive(cls, source: Allowance) -> Mapping[str, Any]:
        """Return the amounts in whole tokens."""
        decimals = source.token.decimals
        amounts = ("min_amount", "max_amount", "approve_above")
        return {
            **{name: _amount(getattr(source, name), decimals) for name in amounts},
            "limits": [
                _limit(bound, decimals)
                for bound in source.bounds
                if bound.name != GAS_PER_HOUR
            ],
        }


class NetworkDocument(Document):
    """A network on which refunds are paid."""

    network: str = says("The network's name, as requests use it.")
    chain_id: int = says("Its chain id.")
    confirmations: _Confirmations
    tokens: list[Annotated[str, says("A token's name.")]] = says(
        "Its tokens: see `GET /v1/tokens`."
    )
    limits: list[LimitDocument] = says("Limits on gas; empty: there is none.")


class TokenListDocument(Document):
    """What may be refunded."""

    tokens: list[TokenDocument] = says("One entry for each network and token.")


class NetworkListDocument(Document):
    """Where refunds are paid."""

    networks: list[NetworkDocument] = says("By name.")


class _Decision(Document):
    """The decision of the service's policy; null if the request would be refused."""

    verdict: Verdict = says(
        """
        `allow`; `needs-approval`: it would wait for `approvals` people; or `refuse`: it
        would wait with `policy-violation`.
        """
    )
    rules: list[Annotated[str, says("A rule's name.")]] = says("The rules that decide.")
    approvals: Count = says("How many people must approve it.")

    @classmethod
    def derive(cls, source: Decision) -> Mapping[str, Any]:
        return {"approvals": 0 if source.need is None else source.need.count}


class _Simulation(Document):
    """The transfer, as the nodes execute it now, without sending it."""

    succeeds: bool = says("Whether the token accepts it.")
    reason: str | None = says("The token's decoded reason to revert.")
    gas: Count | None = says("The gas that it uses; null if it reverts.")

    @classmethod
    def derive(cls, source: Simulation) -> Mapping[str, Any]:
        return {"succeeds": source.reason is None}


class _Fee(Document):
    """The network fee, in the chain's coin, which the wallet pays."""

    expected: Amount = says("At the chain's current prices, in whole coins.")
    at_most: Amount = says(
        "The most that the first transaction may cost, in whole coins."
    )
    gas_limit: Count = says("The gas limit.")
    max_fee_per_gas: Wei = says("In wei.", "max_fee")
    max_priority_fee_per_gas: Wei = says("In wei.", "priority_fee")

    @classmethod
    def derive(cls, source: FeeQuote) -> Mapping[str, Any]:
        names = ("expected", "at_most")
        return {e: format_units(getattr(source, e), COIN_DECIMALS) for e in names}


class PreviewDocument(Document):
    """What would happen with a refund that is requested now."""

    outcome: PreviewOutcome = says(
        """
        `pay`: it would be accepted and paid. `wait`: accepted, and paid later, see
        `waits_for`. `refuse`: `problem` is the answer to the request (an unknown
        network or token, a bound of the amount, a `reference` in use), or it is
        null and the token rejects the transfer (`simulation`).
        """
    )
    problem: ProblemDocument | None
    needs_approval: bool = says("Whether an administrator must approve it first.")
    waits_for: list[Annotated[str, says("A code."), OneOf(_delay_codes)]] = says(
        """
        Codes of what would delay it: the request is accepted, and none of them is
        its answer.
        """,
        "delays",
    )
    policy: _Decision | None = says(source="decision")
    amount: Amount | None = says("The amount, with all decimals of the token.")
    sender: Address | None = says("The wallet that would pay it.")
    simulation: _Simulation | None
    fee: _Fee | None = says(source="quote")
    limits: list[LimitRoomDocument] = says(
        "Each limit that counts this refund; empty: none does."
    )

    @classmethod
    def derive(cls, source: Preview) -> Mapping[str, Any]:
        """Return the amounts in whole tokens."""
        refund = source.refund
        decimals = 0 if refund is None else refund.decimals
        return {
            "amount": _amount(None if refund is None else refund.amount, decimals),
            "limits": [_checked(check, decimals) for check in source.limits],
        }


def network_document(name: str, network: Network, tenant: Tenant) -> NetworkDocument:
    """Return one network, with the limits on gas of *tenant*."""
    limits = (
        (LimitScope.SERVICE, network.gas_per_hour),
        (LimitScope.TENANT, tenant.gas_limit(name)),
    )
    bounds = [
        _limit(Bound(GAS_PER_HOUR, scope, limit), 0)
        for scope, limit in limits
        if limit is not None
    ]
    tokens = list(network.tokens)
    return NetworkDocument.of(network, network=name, tokens=tokens, limits=bounds)


def _limit(bound: Bound, decimals: int) -> LimitDocument:
    return LimitDocument.of(bound, limit=_limited(bound, bound.limit, decimals))


def _checked(check: LimitCheck, decimals: int) -> LimitRoomDocument:
    bound, left = check.bound, check.left
    return LimitRoomDocument.of(
        bound,
        limit=_limited(bound, bound.limit, decimals),
        room=None if left is None else _limited(bound, left, decimals),
        fits=check.fits,
    )


def _limited(bound: Bound, value: int, decimals: int) -> str:
    return format_units(value, 0 if bound.name == GAS_PER_HOUR else decimals)


def _amount(units: int | None, decimals: int) -> str | None:
    return None if units is None else format_units(units, decimals)
