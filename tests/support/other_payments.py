"""Payments that are no refunds: calls of JSON-RPC, and sweeps of a former key."""

from itertools import count
from typing import Any

from signer.audit.log import AuditLog
from signer.chain.erc20 import encode_transfer
from signer.model.audit_record import Actor
from signer.model.refund import COIN, Refund, RefundRequest
from signer.policy.facts import Path
from signer.ports.chain import Call
from signer.refunds.sweep import Sweeper
from tests.fixtures.scripted_chain import DECIMALS, TOKEN
from tests.support.devices import recording
from tests.support.keys import made_active
from tests.support.refunds import ACTOR, CUSTOMER, World, altered


COIN_SENT = 10**17
"""A tenth of what each address holds, in wei."""

CONTRACT = "0xCf7Ed3AccA5a467e9e704C703E8D87F634fB0Fc9"

PING = bytes.fromhex("5c36b186")  # ping()

RULES = f"""
@id("coin-to-one-address")
permit (principal == Tenant::"gateway", action == Action::"sign-transaction", resource)
when {{
  context.path == "{Path.CALL}" && context.shape == "coin-transfer"
  && context has recipient && context.recipient == "{CUSTOMER.lower()}"
}};

@id("one-function")
permit (principal == Tenant::"gateway", action == Action::"sign-transaction", resource)
when {{
  context.path == "{Path.CALL}" && context has to && context.to == "{CONTRACT.lower()}"
  && context has selector && context.selector == "0x{PING.hex()}"
}};

@id("approve-the-contract")
permit (principal == Tenant::"gateway", action == Action::"sign-transaction", resource)
when {{
  context.path == "{Path.CALL}" && context has token && context has spender
  && context.spender == "{CONTRACT.lower()}"
}};
"""
"""Permits coin for one address, and a function of one contract; and an allowance."""

WITH_MEMO = encode_transfer(CUSTOMER, 1, bytes(16))
"""Calldata that ends like that of a refund."""

COIN_REQUEST = {"recipient": CUSTOMER, "amount": "0.1"}
CALL_REQUEST = {"recipient": CONTRACT, "amount": "0", "calldata": f"0x{PING.hex()}"}
APPROVE = {
    "recipient": TOKEN,
    "amount": "0",
    "calldata": f"0x095ea7b3{CONTRACT[2:].lower():0>64}{1:064x}",
}

_numbers = count()


def call_request(**changes: Any) -> RefundRequest:
    """Return a request to send coin, with *changes*."""
    name = f"call-{next(_numbers)}"
    fields = {"calldata": "0x", **COIN_REQUEST, **changes}
    return RefundRequest(name, fields.pop("reference", name), "local", COIN, **fields)


def called(world: World, tenant: str = "gateway", **changes: Any) -> Refund:
    """Return the row of a call that a client sent, which no worker has taken yet."""
    request = call_request(**changes)
    accepted = world.service.submit(
        tenant=tenant,
        idempotency_key=f"key of {request.reference}",
        request=request,
        actor=Actor.from_token(tenant, "req-1", None),
    )
    return world.stored(accepted.refund)


COINS = 10**18
TOKENS = 7 * 10**DECIMALS


class Left:
    """The balances of the former key's address."""

    def __init__(self) -> None:
        self.tokens = TOKENS
        self.coins = COINS


def left_behind(world: World) -> Left:
    """Pay a refund, rotate to the second key, and return the old address's balances."""
    holding = Left()

    def call(call: Call) -> bytes:
        tokens: int = holding.tokens
        return tokens.to_bytes(32, "big")

    world.client = altered(
        world.chain, call=call, balance=lambda address: holding.coins
    )
    world.paid()
    world.rotate()
    return holding


def rolled_back(world: World) -> None:
    """Make the former key the active one again."""
    made_active(world.store, world.key)


def sweeper(world: World, audit: AuditLog | None = None) -> Sweeper:
    return Sweeper(
        world.store,
        world.ring,
        world.chains,
        audit=audit or recording()[0],
        clock=world.clock,
    )


def swept(world: World) -> list[Refund]:
    """Sweep the first key's address, and return the stored sweeps."""
    items = sweeper(world).sweep(world.signer.address, ACTOR)
    return [item.refund for item in items if item.refund is not None]
