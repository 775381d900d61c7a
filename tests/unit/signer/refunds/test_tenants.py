"""Limits of a tenant at acceptance, and blocked tenants."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from signer.alerts import Alerts
from signer.audit.log import AuditLog
from signer.config.tenants import Tenant, TenantRegistry
from signer.errors import (
    ConflictError,
    IdempotencyMismatchError,
    NotFoundError,
    OpenRefundsLimitError,
    PolicyViolationError,
    RowNotAuthenticError,
    TenantBlockedError,
)
from signer.keys.admin_audit import AdminAudit
from signer.model.audit_record import Actor, Operation
from signer.model.refund import OPERATOR, Status
from signer.refunds.hold_admin import Holds
from tests.fixtures.ledger import forge, forged_end, refund_page
from tests.support.devices import honest, signer_over
from tests.support.ledgers import seal
from tests.support.refunds import ACTOR, KEY, REQUEST, World, altered, refused
from tests.support.ring import SILENCE


ALICE = Actor("cli:alice")


def _limited(world: World, **limits: Any) -> None:
    """Give the tenant ``gateway`` limits; those of the token by name."""
    of_token = {
        name: limits.pop(name)
        for name in ("min_amount", "max_amount")
        if name in limits
    }
    table = {
        "subjects": ["gateway"],
        "networks": {"local": {"tokens": {"TUSD": of_token}}},
        **limits,
    }
    world.tenants = TenantRegistry({"gateway": Tenant.model_validate(table)})


def _admin(world: World, store: Any = None) -> Holds:
    """Return the ``Holds`` of a command that starts now."""
    audit = AuditLog(SILENCE, journal=world.store)
    admin_audit = AdminAudit(audit, Operation.ADMINISTRATION)
    return Holds(
        store or world.store,
        lambda: {"local": world.network},
        lambda: world.tenants,
        admin_audit,
        alerts=Alerts(),
        clock=world.clock,
    )


def _records(world: World) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return event, outcome and details of alice's commands, in order."""
    seal(world.store)
    fields = [each.record.fields for each in world.store.sealed(0, 1000)]
    return [
        (each["event"], each["outcome"], each["details"])
        for each in fields
        if each["actor"] == ALICE.name
    ]


@pytest.mark.parametrize(
    ("amount", "rule"),
    [
        ("0.000001", "min-amount"),
        ("1.999999", "min-amount"),
        ("2", None),
        ("5.5", None),
        ("5.500001", "max-amount"),
        ("1001", "max-amount"),
    ],
)
def test_amounts_of_a_tenant(world: World, amount: str, rule: str | None) -> None:
    """Both bounds are inclusive; the token's own limit applies as well."""
    _limited(world, min_amount="2", max_amount="5.5")
    request = replace(REQUEST, amount=amount)
    if rule is None:
        assert world.submit(request).created
        return

    with refused(rule):
        world.submit(request)
    assert refund_page(world.store, "gateway").refunds == ()


def test_the_tokens_limit_applies_to_a_tenant_with_a_higher_one(world: World) -> None:
    _limited(world, max_amount="9999")
    world.change_token(max_amount="3")

    with pytest.raises(PolicyViolationError, match="at most 3 TUSD"):
        world.submit(replace(REQUEST, amount="4"))


def test_an_accepted_refund_is_paid_under_stricter_limits(world: World) -> None:
    """The limits are of acceptance: a repeated request gets its refund, too."""
    refund = world.accepted()
    first = world.submit(key="other")
    _limited(world, max_amount="1")

    assert world.submit(key="other").refund.id == first.refund.id
    assert world.finish(refund)[0].status is Status.CONFIRMED
    assert world.explainer.explain(refund).policy == "one refund may pay at most 1 TUSD"


def test_open_refunds_are_limited(world: World) -> None:
    """A final refund makes room for another one."""
    _limited(world, max_open_refunds=1)
    first = world.submit().refund
    second = replace(REQUEST, reference="second")

    with pytest.raises(OpenRefundsLimitError):
        world.submit(second, key="key-2")
    world.settle()
    assert world.stored(first).status is Status.CONFIRMED
    assert world.submit(second, key="key-2").created


def test_a_blocked_tenant_changes_nothing(world: World) -> None:
    """It may read; another tenant may do everything."""
    refund = world.accepted()
    _admin(world).block("gateway", ALICE)

    with pytest.raises(TenantBlockedError):
        world.submit()
    with pytest.raises(TenantBlockedError):
        world.submit(replace(REQUEST, amount="malformed"))
    with pytest.raises(TenantBlockedError):
        world.service.request_cancellation("gateway", refund.id, ACTOR)
    assert world.service.get("gateway", refund.id) == refund
    assert world.store.cancellation_requests(10) == ()
    assert refund_page(world.store, "gateway").refunds == (refund,)
    assert world.submit(tenant="other").refund.status is Status.BROADCAST


def test_queued_refunds_of_a_blocked_tenant_wait(world: World) -> None:
    """A refund with a nonce is confirmed; the others are paid after the block."""
    sent, queued = world.broadcast(), world.accepted()
    admin = _admin(world)
    admin.block("gateway", ALICE)
    since = world.clock.now.isoformat(timespec="seconds")
    sent_after, *_ = world.finish(sent)
    world.work(after=timedelta(seconds=31))

    assert sent_after.status is Status.CONFIRMED
    assert world.blocked(queued) == (Status.QUEUED, "tenant-blocked")
    found = world.explainer.explain(world.stored(queued))
    assert found.summary.startswith(
        f"It gets no nonce: an operator blocked the tenant at {since}; the last"
    )
    assert found.next_step.startswith("To do: run `hotwallet tenants unblock`")

    admin.unblock("gateway", ALICE)
    assert world.finish(queued)[0].status is Status.CONFIRMED


def test_a_request_to_cancel_outlives_a_block(world: World) -> None:
    """It pays nothing; an operator who blocks a tenant keeps none of its refunds."""
    refund = world.accepted()
    world.service.request_cancellation("gateway", refund.id, ACTOR)
    _admin(world).block("gateway", ALICE)

    world.worker.work()

    assert world.stored(refund).status is Status.CANCELLED
    assert world.chain.broadcasts == []


def test_a_block_during_the_reservation(world: World) -> None:
    """The transaction refuses a nonce when the block came after the check."""
    refund = world.accepted()
    _admin(world).block("gateway", ALICE)
    world.store = altered(world.store, find_block=lambda tenant: None)

    with pytest.raises(TenantBlockedError):
        world.lifecycle.step(refund)
    assert world.stored(refund).nonce is None


def test_a_block_stops_no_sweep(world: World) -> None:
    """The sweeper's tenant cannot be blocked, also after it has made refunds."""
    world.accepted()
    for name in (OPERATOR, "", "a b", "a\ud800"):
        with pytest.raises(NotFoundError):
            _admin(world).block(name, ALICE)
    assert world.store.blocks() == ()


def test_a_changed_block_is_replaced(world: World) -> None:
    """It refuses the tenant until an operator blocks and unblocks it."""
    admin = _admin(world)
    admin.block("gateway", ALICE)
    forged_end(world.store)

    (listed,) = admin.tenants()
    assert listed.block is not None
    assert not listed.block.is_authentic
    with pytest.raises(RowNotAuthenticError, match="hotwallet tenants block"):
        world.submit()
    with pytest.raises(RowNotAuthenticError):
        admin.unblock("gateway", ALICE)
    assert admin.block("gateway", ALICE)
    assert admin.unblock("gateway", ALICE)
    assert world.submit().created


def test_an_inserted_block_has_any_name(world: World) -> None:
    """One of the sweeper would stop sweeps: it can be ended as well."""
    at = world.clock().isoformat(timespec="microseconds")
    forge(
        world.store,
        "INSERT INTO holds (name, at, reason, requested_by, version)"
        f" VALUES ('tenant {OPERATOR}', '{at}', '', 'thief', 0)",
    )
    admin = _admin(world)

    assert [each.name for each in admin.tenants()] == [OPERATOR]
    assert admin.block(OPERATOR, ALICE)
    assert admin.unblock(OPERATOR, ALICE)
    assert admin.tenants() == []


def test_blocks_are_audited(world: World) -> None:
    """Request and result have the operator's name and the tenant."""
    admin = _admin(world)
    world.accepted()
    done = [admin.block("gateway", ALICE), admin.block("gateway", ALICE)]
    done += [admin.unblock("gateway", ALICE), admin.unblock("gateway", ALICE)]

    assert done == [True, False, True, False]
    assert _records(world) == [
        record
        for event, changed, number in [
            ("tenant-block", True, 1),
            ("tenant-block", False, 1),
            ("tenant-unblock", True, 2),
            ("tenant-unblock", False, 2),
        ]
        for record in [
            (f"{event}-requested", "success", {"tenant": "gateway"}),
            (
                f"{event}-succeeded",
                "success",
                {"tenant": "gateway", "changed": changed, "hold_changes": number},
            ),
        ]
    ]


def test_unknown_tenants_cannot_be_blocked(world: World) -> None:
    """A mistyped name must not look like a block; a removed tenant may have refunds."""
    _limited(world)
    world.submit(tenant="removed")
    admin = _admin(world)

    with pytest.raises(NotFoundError, match="hotwallet tenants list"):
        admin.block("gatewey", ALICE)
    assert _records(world)[-1][:2] == ("tenant-block-refused", "not-found")
    assert admin.block("removed", ALICE)
    assert admin.block("gateway", ALICE)
    assert [(each.name, each.block is not None) for each in admin.tenants()] == [
        ("gateway", True),
        ("removed", True),
    ]
    assert admin.tenants()[0].tenant.subjects == ("gateway",)
    assert admin.unblock("removed", ALICE)
    assert [each.name for each in admin.tenants()] == ["gateway"]


def test_signatures_name_the_tenant_and_the_subject(world: World) -> None:
    """The acceptance names the subject, the signature the worker, both the tenant."""
    actor = Actor.from_token("pod-2", "req-1", None)
    audit = AuditLog(SILENCE, journal=world.store)
    service = world.service_over(world.store, audit)
    world.signer = signer_over(honest(KEY), audit)
    submission = service.submit(
        tenant="gateway", idempotency_key="k", request=REQUEST, actor=actor
    )
    world.worker.work()
    seal(world.store)
    records = [each.record.fields for each in world.store.sealed(0, 1000)]
    (accepted,) = [each for each in records if each["operation"] == "refund"]
    signatures = [
        each for each in records if each["operation"] == "transaction-signing"
    ]

    assert (accepted["actor"], accepted["request_id"]) == ("token:pod-2", "req-1")
    assert {each["actor"] for each in signatures} == {"worker"}
    assert {each["refund_id"] for each in signatures} == {submission.refund.id}
    assert accepted["details"]["refund_id"] == submission.refund.id
    assert {each["details"]["tenant"] for each in (accepted, *signatures)} == {
        "gateway"
    }


def test_the_explanation_for_a_tenant_hides_other_refunds(world: World) -> None:
    """An operator sees the id of each refund that is waited for."""
    other = world.submit(tenant="other").refund
    own = world.submit(replace(REQUEST, reference="own"), key="own").refund
    mine = world.explainer.explain(own, for_tenant=True)
    operators = world.explainer.explain(own)

    assert [mine.visible_id(each) for each in mine.ahead] == [None]
    assert "waits for nonce 0 of another tenant's refund (broadcast)" in mine.summary
    assert [operators.visible_id(each) for each in operators.ahead] == [other.id]
    assert f"waits for nonce 0 of refund {other.id} (broadcast)" in operators.summary
    again = replace(REQUEST, reference="again")
    behind = world.submit(again, tenant="other", key="again").refund
    theirs = world.explainer.explain(behind, for_tenant=True)
    assert f"waits for nonce 0 of refund {other.id} (broadcast)" in theirs.summary


def _joined(world: World) -> None:
    """Let the subject ``pod-2``, which was alone, join the tenant ``gateway``."""
    subjects = {"gateway": ["gateway", "pod-2"], "other": ["other"]}
    world.tenants = TenantRegistry(
        {
            name: Tenant.model_validate({"subjects": each})
            for name, each in subjects.items()
        }
    )


def test_a_subject_that_joins_is_not_paid_again(world: World) -> None:
    """Its earlier keys and references are those of the tenant."""
    earlier = world.submit(tenant="pod-2", key="old").refund
    _joined(world)
    repeated = world.submit(key="old")

    assert (repeated.refund.id, repeated.created) == (earlier.id, False)
    with pytest.raises(IdempotencyMismatchError, match=earlier.id):
        world.submit(replace(REQUEST, amount="1"), key="old")
    with pytest.raises(ConflictError, match=earlier.id):
        world.submit(key="new")
    assert world.submit(replace(REQUEST, reference="new"), key="new").created
    assert len(refund_page(world.store, "pod-2").refunds) == 1


def test_the_tenants_own_answer_precedes_that_of_a_subject_that_joined(
    world: World,
) -> None:
    """Both had used the key, each for another refund, before they were one tenant."""
    theirs = world.submit(replace(REQUEST, amount="1"), key="k", tenant="pod-2").refund
    ours = world.submit(key="k").refund
    _joined(world)

    assert world.submit(key="k").refund.id == ours.id
    assert world.submit(replace(REQUEST, amount="1"), key="k").refund.id == theirs.id
    with pytest.raises(IdempotencyMismatchError):
        world.submit(replace(REQUEST, amount="2"), key="k")


def test_a_repeated_request_of_a_subject_that_joined(world: World) -> None:
    """It has its answer when today's rules would refuse it, too."""
    earlier = world.submit(tenant="pod-2", key="old").refund
    _joined(world)
    world.change_token(max_amount="1")

    assert world.submit(key="old").refund.id == earlier.id
    with pytest.raises(PolicyViolationError):
        world.submit(replace(REQUEST, reason="another"), key="old")


def test_refunds_of_a_subject_that_joined(world: World) -> None:
    """The tenant reads and cancels them, and no other tenant does."""
    earlier = world.submit(tenant="pod-2", key="old").refund
    _joined(world)
    service = world.service

    assert service.get("gateway", earlier.id).id == earlier.id
    for other in ("other", "pod-3"):
        with pytest.raises(NotFoundError):
            service.get(other, earlier.id)
    assert refund_page(world.store, "gateway").refunds == ()
