"""
The checks of holds: conditions of statements, and what raises the error of a hold.

A condition cannot verify a MAC.  So what depends on one also calls a check in its
transaction, which takes a row that is missing or not authentic for a hold in force.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from backends.sql.columns import Plain
from backends.sql.holds import of_scopes, select_holds
from backends.sql.tables import holds
from signer.model.hold import (
    EVERY_CHAIN,
    EVERYTHING,
    STOPS,
    Hold,
    Scope,
    name_of_chain,
    name_of_tenant,
)
from signer.model.refund import COIN_ADDRESS, Refund
from signer.row_macs import RowMACs


def is_stopped(chain_id: Any) -> sa.Exists:
    """Return the condition that a stop forbids signatures on *chain_id*."""
    network = sa.literal(f"{Scope.NETWORK} ", Plain) + sa.cast(chain_id, Plain)
    return _is_held(name_of_chain(EVERYTHING), network)


def is_token_stopped(chain_id: Any, token: Any, called: Any, amount: Any) -> sa.Exists:
    """Return the condition that *token* or *called* is held; no coin is not coin."""
    prefix = sa.literal(f"{Scope.TOKEN} ", Plain) + sa.cast(chain_id, Plain) + " "
    moves_coin = (token != COIN_ADDRESS) | (amount != 0)
    moved = sa.case((moves_coin, prefix + sa.func.lower(token)))
    return _is_held(moved, prefix + sa.func.lower(called))


def is_blocked(tenant: Any) -> sa.Exists:
    """Return the condition that *tenant* is blocked."""
    return _is_held(sa.literal(f"{Scope.TENANT} ", Plain) + tenant)


def _is_held(*names: Any) -> sa.Exists:
    return sa.exists().where(holds.c.name.in_(names), holds.c.ended_at.is_(None))


def require_running(
    connection: sa.Connection, macs: RowMACs, chain_id: int, named: str
) -> None:
    """
    Require that no stop forbids signatures on *chain_id*, or on ``EVERY_CHAIN``.

    *named* is what ``Hold.forbids`` looks for stopped tokens in.

    Raises:
        SigningStoppedError: One does.
        RowNotAuthenticError: Another program changed or deleted a stop, perhaps to end
            it.
    """
    if chain_id == EVERY_CHAIN:
        _, found = select_holds(connection, macs)
        found = of_scopes(STOPS, found)
    else:
        names = name_of_chain(EVERYTHING), name_of_chain(chain_id)
        _, found = select_holds(connection, macs, *names, tokens_of=chain_id)
    for hold in found:
        if hold.in_force and (chain_id == EVERY_CHAIN or hold.forbids(named)):
            raise hold.error()


def find_holds_of(
    connection: sa.Connection, macs: RowMACs, refunds: Sequence[Refund]
) -> Mapping[str, Hold]:
    """
    Return the holds of tenants and tokens that forbid *refunds* of one chain, by id.

    Raises:
        SigningStoppedError: A stop forbids them all.
        RowNotAuthenticError: Another program changed or deleted such a stop.
    """
    chain_id = refunds[0].chain_id
    stops = name_of_chain(EVERYTHING), name_of_chain(chain_id)
    names = {*stops, *(name_of_tenant(each.tenant) for each in refunds)}
    _, found = select_holds(connection, macs, *sorted(names), tokens_of=chain_id)
    forbidding: dict[str, Hold] = {}
    for hold in found:
        if not hold.in_force:
            continue
        if hold.name in stops:
            raise hold.error()
        forbidding |= {
            each.id: hold
            for each in refunds
            if hold.name == name_of_tenant(each.tenant)
            or (hold.token and hold.forbids(each.named))
        }
    return forbidding


def find_blocks(
    connection: sa.Connection, macs: RowMACs, tenants: Collection[str]
) -> Mapping[str, Hold]:
    """
    Return the blocks of those of *tenants* that are blocked, by tenant.

    One that another program changed or deleted, perhaps to end it, is in force.
    """
    if not tenants:
        return {}
    named = {name_of_tenant(each): each for each in sorted(tenants)}
    _, found = select_holds(connection, macs, *named)
    return {named[hold.name]: hold for hold in found if hold.in_force}
