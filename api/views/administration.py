"""The documents of administrators, and what commands print of the same."""

# ruff: noqa: N815  Members of these documents are in camel case.

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from eth_utils.address import to_checksum_address
from pydantic import AfterValidator, WithJsonSchema

from api.views.document import (
    Address,
    Amount,
    Count,
    Document,
    RefundId,
    Timestamp,
    format_time,
    says,
    text,
)
from api.views.values import timestamp
from signer.approvals import SHOWN_DIGITS, OpenApprovals
from signer.model.approval import Approval, ApprovalState
from signer.model.event import DeliveryState, Event
from signer.model.hold import EVERYTHING, Hold
from signer.model.key import KeyState
from signer.model.refund import COIN_ADDRESS
from signer.redact import key_prefix


if TYPE_CHECKING:
    from signer.refunds.hold_admin import TenantStatus
    from signer.refunds.nonce_admin import RepairResult


KeyPrefix = Annotated[str, AfterValidator(key_prefix), text()]
Epoch = Annotated[int, WithJsonSchema({"type": "integer", "minimum": 1})]

_NO_CHANGE = "The second one: nothing had to be changed."
_FIRST = "The first eight characters of the key's id."


class KeyDocument(Document):
    """A key."""

    keyId: KeyPrefix = says(_FIRST, "key_id")
    backend: str = says(
        "`aws-kms`, `google-cloud-kms`, `pkcs11`, or another package's backend."
    )
    address: Address = says("The key's address.")
    state: KeyState = says("`blocked` means that it was revoked.")
    epoch: Epoch | None = says("Counts the activations of the ring.")
    requestedBy: str | None = says("Who requested it last.", "requested_by")
    blockedBy: str | None = says(
        "Why a pending key waits, or was rejected: a code.", "blocked_by"
    )
    createdAt: Timestamp = says("When it joined the ring.", "created_at")
    updatedAt: Timestamp = says("When its row changed last.", "updated_at")
    reinstatableUntil: Timestamp | None = says(
        "Until when a revoked key can be reinstated.", "reinstatable_until"
    )


class KeyListDocument(Document):
    """The key ring."""

    keys: list[KeyDocument] = says("The latest epoch first.")


class RevokedKeyDocument(KeyDocument):
    """A key that never signs again."""

    strandedRefunds: list[RefundId] = says(
        "Up to 1,000 open refunds that it has signed, which may be mined."
    )
    nextSteps: list[str] = says("What is left to do, in sentences.")


class ReinstatedKeyDocument(KeyDocument):
    """A key that is draining again."""

    openRefunds: list[RefundId] = says("Up to 1,000 open refunds that it has signed.")


class _Holding(Document):
    """What an address holds on one network."""

    network: str = says("The network's name.")
    gas: Amount | None = says("The coin that pays for gas, in whole coins.")
    tokens: dict[str, Amount] = says(
        "Balances in whole tokens, by the token's name; of the vault, if there is one."
    )
    nonce: Count | None = says("The next nonce.")
    error: str | None = says("A code, if no node answered.")


class RotationDocument(Document):
    """The new key, and what to do next."""

    status: Literal[
        "rotated", "would-rotate", "would-await-funds", "awaiting-funds"
    ] = says("`would-...` is the answer to a dry run.")
    keyId: KeyPrefix = says(_FIRST, "key.key_id")
    address: Address = says("The new key's address.", "key.address")
    epoch: Epoch | None = says("The new key's epoch.", "key.epoch")
    previousKeyId: KeyPrefix | None = says(_FIRST)
    previousAddress: Address | None = says("The address of the key before it.")
    holdings: list[_Holding] = says("What the new address holds.")
    strandedRefunds: list[RefundId] = says(
        "After `compromised`: open refunds that the old key has signed.", "stranded"
    )
    warnings: list[str] = says("What to check or do now, in sentences.")

    @classmethod
    def derive(cls, source: Any) -> Mapping[str, Any]:
        """Return the key before, which there may not be."""
        before = source.previous
        return {
            "previousKeyId": before and before.key_id,
            "previousAddress": before and before.address,
        }


class FailoverDocument(Document):
    """The key in its new place."""

    status: Literal["relocated", "would-relocate"] = says("The second: a dry run.")
    keyId: KeyPrefix = says(_FIRST, "key.key_id")
    previousKeyId: KeyPrefix = says(_FIRST, "previous.key_id")
    address: Address = says("The key's address, which stays.", "key.address")
    state: KeyState = says("The key's state, which stays.", "key.state")
    warnings: list[str] = says("What to check or do now, in sentences.")


class AssetDocument(Document):
    """One asset of a former key's address."""

    network: str = says("The network's name.")
    token: str = says("The token's name, or `coin`.", "symbol")
    amount: Amount = says("In whole tokens.", "display_amount")
    waitsFor: str | None = says("What must happen first, in words.", "waits_for")
    refund: RefundId | None = says("The id of the refund that moves it.")

    @classmethod
    def derive(cls, source: Any) -> Mapping[str, Any]:
        return {"refund": source.refund and source.refund.id}


class SweepDocument(Document):
    """What a former key's address holds."""

    assets: list[AssetDocument] = says("In the order in which they are moved.")


class _Abandoned(Document):
    """One network."""

    network: str = says("The network's name.")
    status: Literal["abandoned", "not-waiting"] = says(_NO_CHANGE)


class AbandonedNoncesDocument(Document):
    """What the service stopped waiting for."""

    networks: list[_Abandoned] = says("Each network that was named.")


class _ChangedTenant(Document):
    tenant: str = says("The tenant's name.")


class BlockedTenantDocument(_ChangedTenant):
    """What changed."""

    status: Literal["blocked", "already-blocked"] = says(_NO_CHANGE)


class UnblockedTenantDocument(_ChangedTenant):
    """What changed."""

    status: Literal["unblocked", "not-blocked"] = says(_NO_CHANGE)


_EVIDENCE = {"type": ["object", "null"], "additionalProperties": True}


def read_evidence(hold: Hold) -> dict[str, Any] | None:
    """Return the evidence of *hold*; that of a changed row is not shown."""
    found = hold.evidence if hold.is_authentic else None
    return None if found is None else dict(json.loads(found))


def evidence_line(hold: Hold) -> str:
    """Return the evidence of *hold* as text; empty if it has none."""
    found = read_evidence(hold) or {}
    shown = {**found, "tenants": json.dumps(found.get("tenants"))}
    return ", ".join(f"{name} {shown[name]}" for name in found)


class _Stop(Document):
    """A stop of signing that is in force."""

    network: str | None = says("The network; null for everything.")
    chainId: int | None = says("The chain; null for everything.")
    token: Address | None = says(
        "The contract of a stopped token, the zero address for coin; null for others."
    )
    at: Timestamp = says("When it was made.")
    reason: str = says("Why.")
    requestedBy: str = says("By whom.", "requested_by")
    alert: str | None = says("The alert of the rule that made it; null for a person's.")
    evidence: Annotated[dict[str, Any] | None, WithJsonSchema(_EVIDENCE)] = says(
        "Why the rule made it; null for a person's."
    )
    authentic: bool = says(
        "False if another program changed the row: it is still in force.",
        "is_authentic",
    )


class StopsDocument(Document):
    """The stops that are in force."""

    stops: list[_Stop] = says("A stop of everything is the first.")

    @classmethod
    def of_holds(cls, stops: Sequence[Hold], names: Mapping[int, str]) -> Self:
        """Return *stops*; *names* are those of the networks, by chain id."""
        shown = [
            _Stop.of(
                stop,
                network=names.get(stop.chain_id),
                chainId=None if stop.chain_id == EVERYTHING else stop.chain_id,
                token=to_checksum_address(stop.token) if stop.token else None,
                evidence=read_evidence(stop),
            )
            for stop in stops
        ]
        return cls(stops=shown)


class _Switched(Document):
    network: str | None = says("As requested; null for everything.")
    token: str | None = says("As requested; null for all that the network has.")
    stops: list[_Stop] = says("Those in force now. A stop of everything is the first.")


class StoppedDocument(_Switched):
    """What changed."""

    status: Literal["stopped", "already-stopped"] = says(_NO_CHANGE)


class ResumedDocument(_Switched):
    """What changed."""

    status: Literal["resumed", "not-stopped"] = says(_NO_CHANGE)


_PROPOSAL = {
    "type": "object",
    "required": ["action"],
    "properties": {"action": {"type": "string", "description": "The action."}},
    "additionalProperties": True,
}


class ApprovalDocument(Document):
    """A change that needs two administrators."""

    digest: Annotated[str, text(pattern="^[0-9a-f]{64}$")] = says("Names the proposal.")
    state: ApprovalState = says("The state of the decision.")
    proposal: Annotated[dict[str, Any], WithJsonSchema(_PROPOSAL)] = says(
        "Everything that would be done; `action` names it."
    )
    reason: str = says("Why it was requested.")
    requestedBy: str = says("Who requested it.", "requested_by")
    requestedAt: Timestamp = says("When it was requested.", "requested_at")
    expiresAt: Timestamp = says("Until when it can be approved and used.", "expires_at")
    decidedBy: str | None = says("Who decided.", "decided_by")
    alone: bool = says("Whether one person approved it, in an emergency.")
    decidedAt: Timestamp | None = says("When it was decided.", "decided_at")

    @classmethod
    def derive(cls, source: Approval) -> Mapping[str, Any]:
        """Return the proposal, which has everything that the digest covers."""
        is_rejected = source.state is ApprovalState.REJECTED
        return {
            "proposal": json.loads(source.proposal),
            "alone": source.is_alone and not is_rejected,
        }


class ApprovalListDocument(Document):
    """What waits for a decision."""

    approvals: list[ApprovalDocument] = says(
        """
        Up to 200: administrators' first, then refunds, in which tenants take turns; of
        each, the oldest first.
        """
    )
    complete: bool = says("False if there may be more.", "is_complete")
    nextCursor: Annotated[str, text(pattern="^[0-9]{1,9}$")] | None = says(
        "The `cursor` of the next page."
    )
    changedRows: Count = says(
        "Rows that another program changed: they approve nothing.", "changed"
    )

    @classmethod
    def derive(cls, source: OpenApprovals) -> Mapping[str, Any]:
        following = source.following
        return {"nextCursor": None if following is None else str(following)}


class DeliveryDocument(Document):
    """The delivery of one event to the webhook of its tenant."""

    id: str = says("The event's id.", "event_id")
    type: str | None = says(
        "Such as `refund.confirmed`; null if the event is not authentic."
    )
    tenant: str = says("The tenant.")
    refund: str = says("The refund's id.", "refund_id")
    state: DeliveryState = says("`dead` means given up.")
    attempts: Count = says("How often it was sent.")
    problem: str | None = says("Why the last attempt failed.")
    dueAt: Timestamp = says("When a pending one is sent next.", "due_at")
    updatedAt: Timestamp = says("When it was stored or sent last.", "updated_at")
    authentic: bool = says("False if another program changed the event or its refund.")


def delivery_of(delivery: object, event: Event | None) -> DeliveryDocument:
    """Return a delivery; *event* is None if it is not authentic."""
    type_ = None if event is None else str(event.type)
    return DeliveryDocument.of(delivery, type=type_, authentic=event is not None)


class DeliveryListDocument(Document):
    """A page of deliveries, newest first."""

    deliveries: list[DeliveryDocument] = says("The deliveries of this page.")
    nextCursor: Annotated[str, text(pattern="^[0-9]{1,16}$")] | None = says(
        "The `cursor` of the next page."
    )


class DeadReplayDocument(Document):
    """What is due again."""

    tenant: str = says("As requested.")
    count: Count = says("How many deliveries.")
    complete: bool = says("False if more may be left: repeat the request.")


class LivenessDocument(Document):
    """The process answers."""

    status: Literal["ok"] = says("Always `ok`.")


class ReadinessDocument(Document):
    """Whether this host can serve requests."""

    status: Literal["ready", "degraded", "unavailable"] = says(
        "`degraded`: refunds are accepted; `checks` shows what is wrong."
    )
    checks: dict[str, Annotated[str, text(description="`ok` or a code.")]] = says(
        "Each dependency."
    )
    address: Address | None = says("The active key's address.")
    epoch: Epoch | None = says("The active key's epoch.")

    @classmethod
    def derive(cls, source: Any) -> Mapping[str, Any]:
        """Return one word for all checks."""
        if not source.ready:
            return {"status": "unavailable"}
        return {"status": "degraded" if source.degraded else "ready"}


def stop_lines(stops: Sequence[Hold], names: Mapping[int, str]) -> Iterator[str]:
    for stop in stops:
        scope = _scope_of(stop, names, "everything")
        if not stop.is_authentic:
            yield (
                f"{scope}: not authentic: another program changed this row; stop again"
                " and resume"
            )
            continue
        yield (
            f"{scope}: stopped at {timestamp(stop.at)} by {stop.requested_by}:"
            f" {stop.reason}"
        )
        if stop.evidence is not None:
            yield f"  {stop.alert}: {evidence_line(stop)}"
    if not stops:
        yield "nothing is stopped"


def describe_stop(stop: Hold, names: Mapping[int, str]) -> str:
    """Return what *stop* stops; *names* are those of the networks, by chain id."""
    scope = _scope_of(stop, names, "every network")
    if not stop.is_authentic:
        return f"Another program changed the row of the stop of {scope}"
    since = format_time(stop.at)
    return (
        f"Signing is stopped for {scope} since {since}, by {stop.requested_by}:"
        f" {stop.reason}"
    )


def _scope_of(stop: Hold, names: Mapping[int, str], everything: str) -> str:
    if stop.chain_id == EVERYTHING:
        return everything
    network = names.get(stop.chain_id, f"chain {stop.chain_id}")
    if not stop.token:
        return network
    is_coin = stop.token == COIN_ADDRESS
    return f"{'coin' if is_coin else to_checksum_address(stop.token)} on {network}"


def list_lines(found: OpenApprovals) -> Iterator[str]:
    yield from approval_lines(found.approvals)
    if found.changed:
        yield (
            f"left out: {found.changed} rows that another program changed or inserted;"
            " they approve nothing (docs/how-to/alarms.md, row-not-authentic)"
        )
    if not found.is_complete:
        yield (
            f"there may be more: `hotwallet approvals list --cursor {found.following}`"
        )
    elif not (found.approvals or found.changed):
        yield "nothing waits for an approval"


def approval_lines(approvals: Sequence[Approval]) -> Iterator[str]:
    for each in approvals:
        yield f"{each.digest[:SHOWN_DIGITS]} {each.state}: {each.action}"
        facts = json.loads(each.proposal)
        for name, value in facts.items():
            if name != "action":
                yield f"  {name}: {json.dumps(value)}"
        reason = f": {each.reason}" if each.reason else ""
        name = json.dumps(each.requested_by)
        since, until = timestamp(each.requested_at), timestamp(each.expires_at)
        yield f"  requested by {name} at {since}, until {until}{reason}"
        if not each.can_be_approved and each.decided_by is None:
            yield "  asked without a token: only break-glass or reject decides it"
        if each.decided_by is not None:
            is_rejected = each.state is ApprovalState.REJECTED
            verb = "rejected" if is_rejected else "approved"
            alone = "" if is_rejected or not each.is_alone else " ALONE"
            yield f"  {verb}{alone} by {json.dumps(each.decided_by)}"


def repair_lines(each: "RepairResult", next_step: str) -> Iterator[str]:
    """Return *each* for people; *next_step* says how the repair can be made."""

    wallet, status = each.wallet_status.wallet, each.wallet_status
    yield (
        f"{each.network} {wallet.sender}: next nonce {wallet.next_nonce},"
        f" the chain's {status.chain_nonce}"
    )
    if each.stopped_at is not None:
        yield (
            f"  signing was stopped at {timestamp(each.stopped_at)}:"
            " `hotwallet resume` ends that"
        )
    for filler in each.fillers:
        delay = f", blocked by {filler.blocked_by}" if filler.blocked_by else ""
        yield f"  open filler: nonce {filler.nonce}, {filler.status}{delay}"
    if not each.is_open:
        yield "  resumed" if each.resumed else "  in order"
        return
    if not wallet.is_paused:
        yield "  not paused yet: a worker will pause it"
    else:
        yield f"  paused by {wallet.pause_reason}"
    if status.unknown_count:
        yield f"  not looked at yet: {status.unknown_count} of the chain's transactions"
    for foreign in status.foreign:
        yield f"  foreign: nonce {foreign.nonce}, transaction {foreign.tx_hash}"
    yield f"  {each.problem or next_step}"


class _Tenant(Document):
    """A tenant and its block; the API has no route for it."""

    tenant: str = says("The tenant's name.", "name")
    subjects: list[str] = says("Its subjects.", "tenant.subjects")
    clientIds: list[str] = says("Its clients.", "tenant.client_ids")
    blockedAt: Timestamp | None = says("When it was blocked.")
    blockedBy: str | None = says("By whom.")
    blockReason: str | None = says("Why.")
    alert: str | None = says("The alert of the rule that blocked it.")
    evidence: dict[str, Any] | None = says("Why the rule blocked it.")
    authentic: bool = says("False if another program changed the block.")

    @classmethod
    def derive(cls, source: Any) -> Mapping[str, Any]:
        """Return the block, which there may not be."""
        block = source.block
        return {
            "blockedAt": block and block.at,
            "blockedBy": block and block.requested_by,
            "blockReason": block and block.reason,
            "alert": block and block.alert,
            "evidence": block and read_evidence(block),
            "authentic": block is None or block.is_authentic,
        }


def tenant_document(status: "TenantStatus") -> dict[str, Any]:
    return _Tenant.of(status).dump()
