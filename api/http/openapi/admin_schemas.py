"""The schemas of the administrators' routes, and of probes and errors."""

from api.http.openapi.action_operations import body_schemas
from api.http.openapi.elements import (
    Element,
    address,
    amount,
    flag,
    integer,
    list_of,
    mapping_of,
    nullable,
    one_of,
    record,
    schema,
    text,
    timestamp,
)
from api.views.document import REFUND_ID_PATTERN
from signer.model.approval import ApprovalState
from signer.model.delivery import DeliveryState
from signer.model.key import KeyState


_KEY_ID = text("The first eight characters of the key's id.")

_WARNINGS = list_of(text("A sentence."), "What to check or do now.")

_KEY = {
    "keyId": _KEY_ID,
    "backend": text(
        "`aws-kms`, `google-cloud-kms`, `pkcs11`, or another package's backend."
    ),
    "address": address("The key's address."),
    "state": one_of(KeyState, "`blocked` means that it was revoked."),
    "epoch": nullable(integer("Counts the activations of the ring.", minimum=1)),
    "requestedBy": nullable(text("Who requested it last.")),
    "blockedBy": nullable(text("Why a pending key waits, or was rejected: a code.")),
    "createdAt": timestamp("When it joined the ring."),
    "updatedAt": timestamp("When its row changed last."),
    "reinstatableUntil": nullable(
        timestamp("Until when a revoked key can be reinstated.")
    ),
}

_HOLDING = record(
    "What an address holds on one network.",
    network=text("The network's name."),
    gas=nullable(amount("The coin that pays for gas, in whole coins.")),
    tokens=mapping_of(amount("In whole tokens."), "Balances by the token's name."),
    nonce=nullable(integer("The next nonce.", minimum=0)),
    error=nullable(text("A code, if no node answered.")),
)

_DELIVERY = record(
    "The delivery of one event to the webhook of its tenant.",
    id=text("The event's id."),
    type=nullable(
        text("Such as `refund.confirmed`; null if the event is not authentic.")
    ),
    tenant=text("The tenant."),
    refund=text("The refund's id."),
    state=one_of(DeliveryState, "`dead` means given up."),
    attempts=integer("How often it was sent.", minimum=0),
    problem=nullable(text("Why the last attempt failed.")),
    dueAt=timestamp("When a pending one is sent next."),
    updatedAt=timestamp("When it was stored or sent last."),
    authentic=flag("False if another program changed the event or its refund."),
)

_STOP = record(
    "A stop of signing that is in force.",
    network=nullable(text("The network; null for everything.")),
    chainId=nullable(integer("The chain; null for everything.")),
    at=timestamp("When it was made."),
    reason=text("Why."),
    requestedBy=text("By whom."),
    authentic=flag("False if another program changed the row: it is still in force."),
)


def _switched(statuses: tuple[str, str]) -> Element:
    return record(
        "What changed, and the stops that are in force now.",
        status=one_of(statuses, "The second one: nothing had to be changed."),
        network=nullable(text("As requested; null for everything.")),
        stops=list_of(_STOP, "A stop of everything is the first."),
    )


def _tenant(statuses: tuple[str, str]) -> Element:
    return record(
        "What changed.",
        tenant=text("The tenant's name."),
        status=one_of(statuses, "The second one: nothing had to be changed."),
    )


SCHEMAS: dict[str, Element] = {
    **body_schemas(),
    "Rotation": record(
        "The new key, and what to do next.",
        status=one_of(
            ("rotated", "would-rotate", "would-await-funds", "awaiting-funds"),
            "`would-...` is the answer to a dry run.",
        ),
        keyId=_KEY_ID,
        address=address("The new key's address."),
        epoch=nullable(integer("The new key's epoch.", minimum=1)),
        previousKeyId=nullable(_KEY_ID),
        previousAddress=nullable(address("The address of the key before it.")),
        holdings=list_of(_HOLDING, "What the new address holds."),
        strandedRefunds=list_of(
            text("An id of a refund.", pattern="^rf_"),
            "After `compromised`: open refunds that the old key has signed.",
        ),
        warnings=_WARNINGS,
    ),
    "Failover": record(
        "The key in its new place.",
        status=one_of(("relocated", "would-relocate"), "The second: a dry run."),
        keyId=_KEY_ID,
        previousKeyId=_KEY_ID,
        address=address("The key's address, which stays."),
        state=one_of(KeyState, "The key's state, which stays."),
        warnings=_WARNINGS,
    ),
    "KeyList": record(
        "The key ring.",
        keys=list_of(record("A key.", **_KEY), "The latest epoch first."),
    ),
    "RevokedKey": record(
        "A key that never signs again.",
        **_KEY,
        strandedRefunds=list_of(
            text("An id of a refund.", pattern=REFUND_ID_PATTERN),
            "Up to 1,000 open refunds that it has signed, which may be mined.",
        ),
    ),
    "Sweep": record(
        "What a former key's address holds.",
        assets=list_of(
            record(
                "One asset.",
                network=text("The network's name."),
                token=text("The token's name, or `coin`."),
                amount=amount("In whole tokens."),
                waitsFor=nullable(text("What must happen first, in words.")),
                refund=nullable(text("The id of the refund that moves it.")),
            ),
            "In the order in which they are moved.",
        ),
    ),
    "AbandonedNonces": record(
        "What the service stopped waiting for.",
        networks=list_of(
            record(
                "One network.",
                network=text("The network's name."),
                status=one_of(
                    ("abandoned", "not-waiting"),
                    "The second one: nothing had to be changed.",
                ),
            ),
            "Each network that was named.",
        ),
    ),
    "ReinstatedKey": record(
        "A key that is draining again.",
        **_KEY,
        openRefunds=list_of(
            text("An id of a refund.", pattern=REFUND_ID_PATTERN),
            "Up to 1,000 open refunds that it has signed.",
        ),
    ),
    "BlockedTenant": _tenant(("blocked", "already-blocked")),
    "UnblockedTenant": _tenant(("unblocked", "not-blocked")),
    "Stopped": _switched(("stopped", "already-stopped")),
    "Resumed": _switched(("resumed", "not-stopped")),
    "Stops": record(
        "The stops that are in force.",
        stops=list_of(_STOP, "A stop of everything is the first."),
    ),
    "Approval": record(
        "A change that needs two administrators.",
        digest=text("Names the proposal.", pattern="^[0-9a-f]{64}$"),
        state=one_of(ApprovalState, "The state of the decision."),
        proposal={
            "type": "object",
            "description": "Everything that would be done; `action` names it.",
            "required": ["action"],
            "properties": {"action": text("The action.")},
            "additionalProperties": True,
        },
        reason=text("Why it was requested."),
        requestedBy=text("Who requested it."),
        requestedAt=timestamp("When it was requested."),
        expiresAt=timestamp("Until when it can be approved and used."),
        decidedBy=nullable(text("Who decided.")),
        decidedAt=nullable(timestamp("When it was decided.")),
        alone=flag("Whether one person approved it, in an emergency."),
    ),
    "ApprovalList": record(
        "What waits for a decision.",
        approvals=list_of(
            schema("Approval"),
            "Up to 200: administrators' first, then refunds, in which tenants take"
            " turns; of each, the oldest first.",
        ),
        complete=flag("False if there may be more."),
        nextCursor=nullable(
            text("The `cursor` of the next page.", pattern="^[0-9]{1,9}$")
        ),
        changedRows=integer(
            "Rows that another program changed: they approve nothing.", minimum=0
        ),
    ),
    "Delivery": _DELIVERY,
    "DeliveryList": record(
        "A page of deliveries, newest first.",
        deliveries=list_of(schema("Delivery"), "The deliveries of this page."),
        nextCursor=nullable(
            text("The `cursor` of the next page.", pattern="^[0-9]{1,16}$")
        ),
    ),
    "DeadReplay": record(
        "What is due again.",
        tenant=text("As requested."),
        count=integer("How many deliveries.", minimum=0),
        complete=flag("False if more may be left: repeat the request."),
    ),
    "Liveness": record("The process answers.", status=one_of(("ok",), "Always `ok`.")),
    "Readiness": record(
        "Whether this host can serve requests.",
        status=one_of(
            ("ready", "degraded", "unavailable"),
            "`degraded`: refunds are accepted; `checks` shows what is wrong.",
        ),
        checks=mapping_of(text("`ok` or a code."), "Each dependency."),
        address=nullable(address("The active key's address.")),
        epoch=nullable(integer("The active key's epoch.", minimum=1)),
    ),
}
