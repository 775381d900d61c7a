"""For each change of the console: a state that allows it, and what it changes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from api.console.changes.change import Change, Values
from signer.model.audit_record import Actor
from tests.api.console.worlds import CAROL, SHOP, WHY, World
from tests.support.ring import ELSEWHERE, NEW


@dataclass(frozen=True)
class Request:
    """A request to the API; a body of None is none."""

    path: str
    body: Any = None


@dataclass(frozen=True)
class Case:
    """
    How a change is tested.

    ``prepare`` makes the state, and returns the fields of the form.  ``state`` is what
    the change changes.  ``same`` makes the same change without the console: it returns
    the path and the body of a request to the API, or calls the service for an actor.
    """

    prepare: Callable[[World], Values]
    state: Callable[[World], object]
    same: Callable[[World, Values, Actor], object]
    needs_approval: bool = False


def _stopped(world: World) -> Values:
    world.container.kill_switch.stop("local", "odd <i>refunds</i>", CAROL)
    return {"network": "local", "reason": WHY}


def _blocked(world: World) -> Values:
    world.container.tenant_admin.block(SHOP, CAROL)
    return {"tenant": SHOP, "reason": WHY}


def _paused(world: World) -> Values:
    world.paused(world.old.address)
    return {"network": "local", "reason": WHY}


def _lost(world: World) -> Values:
    address = world.revoked().address
    world.paused(address)
    return {"address": address, "network": "local", "reason": WHY}


def _rotation(world: World) -> Values:
    return {
        "new_key_id": NEW,
        "kind": "planned",
        "active_address": world.old.address,
        "reason": WHY,
    }


def _rehearsal(world: World) -> Values:
    return {name: text for name, text in _rotation(world).items() if name != "reason"}


def _rotation_body(values: Values, **more: object) -> dict[str, object]:
    return {
        "newKeyId": values["new_key_id"],
        "activeAddress": values["active_address"],
        **more,
    }


def _proposed(world: World) -> Values:
    return {"digest": world.proposed(), "reason": WHY}


def _stops(world: World) -> object:
    return world.store.stops()


def _blocks(world: World) -> object:
    return world.store.tenant_blocks()


def _wallets(world: World) -> object:
    return world.store.wallets()


def _keys(world: World) -> object:
    return world.store.keys()


def _tests(name: str) -> Callable[[World], object]:
    return lambda world: world.system.directory.devices[name].calls


def _deliveries(world: World) -> object:
    return world.store.deliveries(9)


def _refunds(world: World) -> object:
    return world.store.list(SHOP).refunds


def _approvals(world: World) -> object:
    return [(each.state, each.decided_by) for each in world.store.open_approvals(0, 9)]


def _route(path: str, *fields: str) -> Callable[[World, Values, Actor], Request]:
    """Return a request to *path*, with *fields* of the form as its body."""
    return lambda _, values, __: Request(
        path.format(**values), {name: values[name] for name in fields} or None
    )


def _decision(verb: str) -> Case:
    path = f"/v1/admin/approvals/{{digest}}/{verb}"
    return Case(_proposed, _approvals, _route(path, "reason"))


CASES: Mapping[str, Case] = {
    "stop": Case(
        lambda _: {"network": "local", "reason": WHY},
        _stops,
        _route("/v1/admin/stop", "network", "reason"),
    ),
    "resume": Case(
        _stopped,
        _stops,
        _route("/v1/admin/resume", "network", "reason"),
        needs_approval=True,
    ),
    "block-tenant": Case(
        lambda _: {"tenant": SHOP, "reason": WHY},
        _blocks,
        _route("/v1/admin/tenants/{tenant}/block", "reason"),
    ),
    "unblock-tenant": Case(
        _blocked,
        _blocks,
        _route("/v1/admin/tenants/{tenant}/unblock", "reason"),
        needs_approval=True,
    ),
    "repair-nonces": Case(
        _paused,
        _wallets,
        lambda world, values, actor: world.container.nonce_admin.repair(
            values["network"], actor
        ),
    ),
    "abandon-nonces": Case(
        _lost,
        _wallets,
        lambda world, values, actor: world.container.nonce_admin.abandon(
            values["address"], values["network"], actor
        ),
        needs_approval=True,
    ),
    "rehearse-rotation": Case(
        _rehearsal,
        _tests(NEW),
        lambda _, values, __: Request(
            "/v1/admin/kms/rotate",
            _rotation_body(values, dryRun=True),
        ),
    ),
    "rotate-key": Case(
        _rotation,
        _keys,
        lambda _, values, __: Request(
            "/v1/admin/kms/rotate",
            _rotation_body(values, reason=WHY),
        ),
    ),
    "rehearse-failover": Case(
        lambda _: {"new_key_id": ELSEWHERE},
        _tests(ELSEWHERE),
        lambda _, values, __: Request(
            "/v1/admin/kms/failover",
            {"newKeyId": values["new_key_id"], "dryRun": True},
        ),
    ),
    "fail-over": Case(
        lambda _: {"new_key_id": ELSEWHERE},
        _keys,
        lambda _, values, __: Request(
            "/v1/admin/kms/failover",
            {"newKeyId": values["new_key_id"]},
        ),
    ),
    "revoke-key": Case(
        lambda world: {"address": world.replaced().address, "reason": WHY},
        _keys,
        lambda world, values, actor: world.container.revocation.revoke(
            values["address"], actor
        ),
        needs_approval=True,
    ),
    "reinstate-key": Case(
        lambda world: {"address": world.revoked().address, "reason": WHY},
        _keys,
        _route("/v1/admin/keys/{address}/reinstate", "reason"),
        needs_approval=True,
    ),
    "replay-event": Case(
        lambda world: {"event_id": world.given_up()},
        _deliveries,
        _route("/v1/admin/webhooks/deliveries/{event_id}/replay"),
    ),
    "replay-dead": Case(
        lambda world: {"tenant": SHOP} if world.given_up() else {},
        _deliveries,
        _route("/v1/admin/webhooks/replay", "tenant"),
    ),
    "cancel-refund": Case(
        lambda world: {"refund_id": world.refund().id},
        _refunds,
        lambda world, values, actor: world.container.refunds.request_cancellation(
            SHOP, values["refund_id"], actor
        ),
    ),
    "approve": _decision("approve"),
    "reject": _decision("reject"),
    "break-glass": _decision("break-glass"),
}


def prepared(world: World, change: Change) -> tuple[Case, Values]:
    """Make the state of *change* in *world*; return its case and fields."""
    case = CASES[change.name]
    values = case.prepare(world)
    if case.needs_approval:
        first = world.make(change, values)
        assert first.status_code == 409
        world.approve_all()
    return case, values
