"""
Limits of one payment: its largest and smallest amount, and where approvals begin.

A rule of the policy demands an approval of what exceeds ``approve_above``.
"""

from signer.amounts import parse_units
from signer.policy.facts import KnownNetwork, KnownToken, Path, Surroundings
from signer.policy.rules import APPROVE_ABOVE


# Paths on which a caller chooses the amount.  An accepted refund is a promise: it is
# compared with the token's limit only, as before.
_OF_CALLERS = frozenset({Path.CALL, Path.JSON_RPC, Path.REST})


def compare_amount(
    amount: int, token: KnownToken, network: KnownNetwork, surroundings: Surroundings
) -> set[str]:
    """Return which limits of one payment *amount* of *token* exceeds."""
    path = surroundings.caller.path
    if path is Path.SWEEP:
        return set()  # It moves the whole balance.
    largest, smallest, unapproved = [token.max_amount], [0], [amount]
    of_tenant = surroundings.limits.token_limits(network.name, token.symbol)
    if path in _OF_CALLERS:
        smallest += _units(token, of_tenant.min_amount, token.min_amount)
        largest += _units(token, of_tenant.max_amount)
    elif path is Path.REFUND:
        unapproved += _units(token, of_tenant.approve_above, token.approve_above)
    found = {
        "max-amount": amount > min(largest),
        "min-amount": amount < max(smallest),
        APPROVE_ABOVE: amount > min(unapproved),
    }
    return {name for name, is_exceeded in found.items() if is_exceeded}


def _units(token: KnownToken, *limits: str | int | None) -> list[int]:
    return [
        parse_units(limit, token.decimals) if isinstance(limit, str) else limit
        for limit in limits
        if limit is not None
    ]
