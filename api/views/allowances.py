"""What may be refunded, and previews of refunds, as JSON."""

from collections.abc import Mapping
from typing import Any

from api.views.refunds import fields
from signer.amounts import format_units
from signer.chain.chain import COIN_DECIMALS
from signer.config.networks import Network
from signer.config.tenants import Tenant
from signer.model.decision import Decision
from signer.model.spending_limits import GAS_PER_HOUR
from signer.refunds.allowances import Allowance, Bound, Scope
from signer.refunds.preview import FeeQuote, Preview, Room, Simulation


def token_document(allowance: Allowance) -> dict[str, Any]:
    """Return one token as JSON; amounts in whole tokens."""
    decimals = allowance.token.decimals
    return {
        **fields(allowance, "network", "chain_id"),
        "token": allowance.symbol,
        **fields(allowance.token, "address", "decimals"),
        "min_amount": _amount(allowance.min_amount, decimals),
        "max_amount": format_units(allowance.max_amount, decimals),
        "approve_above": _amount(allowance.approve_above, decimals),
        "limits": [
            _bound_document(bound, decimals)
            for bound in allowance.bounds
            if bound.name != GAS_PER_HOUR
        ],
        "confirmations": allowance.confirmations,
    }


def network_document(name: str, network: Network, tenant: Tenant) -> dict[str, Any]:
    """Return one network as JSON, with the limits on gas of *tenant*."""
    limits = (
        (Scope.SERVICE, network.gas_per_hour),
        (Scope.TENANT, tenant.network_limits(name).gas_per_hour),
    )
    return {
        "network": name,
        **fields(network, "chain_id", "confirmations"),
        "tokens": list(network.tokens),
        "limits": [
            _bound_document(Bound(GAS_PER_HOUR, scope, limit), 0)
            for scope, limit in limits
            if limit is not None
        ],
    }


def preview_document(
    preview: Preview, problem: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return *preview* as JSON; *problem* is its refusal as a problem document."""
    refund, simulation, quote = preview.refund, preview.simulation, preview.quote
    decimals = 0 if refund is None else refund.decimals
    return {
        "outcome": str(preview.outcome),
        "problem": problem,
        "needs_approval": preview.needs_approval,
        "waits_for": list(preview.delays),
        "policy": _decision_document(preview.decision),
        "amount": _amount(None if refund is None else refund.amount, decimals),
        "sender": preview.sender,
        "simulation": None if simulation is None else _simulation_document(simulation),
        "fee": None if quote is None else _fee_document(quote),
        "limits": [_room_document(room, decimals) for room in preview.rooms],
    }


def _decision_document(decision: Decision | None) -> dict[str, Any] | None:
    if decision is None:
        return None
    return {
        "verdict": str(decision.verdict),
        "rules": list(decision.rules),
        "approvals": 0 if decision.need is None else decision.need.count,
    }


def _bound_document(bound: Bound, decimals: int) -> dict[str, Any]:
    limit = _limited(bound, bound.limit, decimals)
    return {"name": bound.name, "scope": str(bound.scope), "limit": limit}


def _room_document(room: Room, decimals: int) -> dict[str, Any]:
    left = None if room.left is None else _limited(room.bound, room.left, decimals)
    return {**_bound_document(room.bound, decimals), "room": left, "fits": room.fits}


def _limited(bound: Bound, value: int, decimals: int) -> str:
    return format_units(value, 0 if bound.name == GAS_PER_HOUR else decimals)


def _simulation_document(simulation: Simulation) -> dict[str, Any]:
    return {
        "succeeds": simulation.reason is None,
        **fields(simulation, "reason", "gas"),
    }


def _fee_document(quote: FeeQuote) -> dict[str, Any]:
    return {
        "expected": format_units(quote.expected, COIN_DECIMALS),
        "at_most": format_units(quote.at_most, COIN_DECIMALS),
        "gas_limit": quote.gas_limit,
        "max_fee_per_gas": str(quote.max_fee),
        "max_priority_fee_per_gas": str(quote.priority_fee),
    }


def _amount(units: int | None, decimals: int) -> str | None:
    return None if units is None else format_units(units, decimals)
