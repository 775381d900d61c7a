"""The documents of refunds: one, a page, a batch, and the events of webhooks."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from api.views.codes import failure_codes
from api.views.document import (
    Address,
    Amount,
    Count,
    Document,
    EventId,
    Hash,
    Name,
    OneOf,
    RefundId,
    Timestamp,
    says,
    text,
)
from api.views.problems import ProblemDocument
from signer.amounts import format_units
from signer.config.tenants import EventType
from signer.model.event import Event
from signer.model.refund import Refund, Status
from signer.refunds.request_body import IdempotencyKey


StatusMember = Annotated[
    Status,
    says(
        """
        `confirmed`, `cancelled`, `refused` and `failed` are final. Only `confirmed` is
        paid, except where `failure.code` is `already-paid`. `refused` ended without a
        nonce, and `failed` had one.
        """
    ),
]


class _Failure(Document):
    """Why a final refund was not paid as requested."""

    code: Annotated[str, OneOf(failure_codes)] = says(
        """
        `already-paid`: this service has paid it before. `/problems/{code}` explains
        each.
        """,
        "failure_code",
    )
    detail: str | None = says("The same for people.", "failure_detail")


class RefundDocument(Document):
    """A refund of the caller's tenant."""

    id: RefundId = says("The refund's id.")
    status: StatusMember
    reference: Name = says("The caller's name of the refund.")
    payment_session_id: Name = says("The payment that is refunded.")
    network: Name = says("The network's name.")
    chain_id: int = says("The network's chain id.")
    token: Name = says("The token's name.")
    token_address: Address = says("The token's contract.")
    recipient: Address = says("Who is paid.")
    amount: Amount = says("Whole tokens, with all decimals of the token.")
    calldata: Annotated[str, text(pattern="^0x([0-9a-f]{2})*$")] | None = says(
        """
        What a client of JSON-RPC calls the recipient with; `0x` only sends
        coin. Null: a transfer of the token.
        """
    )
    reason: str | None = says("As requested.")
    sender: Address | None = says("The wallet that pays it; null without a nonce.")
    nonce: Count | None = says("The number of its transaction; null without one.")
    tx_hash: Hash | None = says("The newest transaction; null before one is signed.")
    block_number: Count | None = says("The block that has it.")
    failure: _Failure | None
    created_at: Timestamp = says("When it was accepted.")
    updated_at: Timestamp = says("When its status changed last.", "moving.updated_at")
    cancel_requested_at: Timestamp | None = says("When its cancellation was requested.")

    @classmethod
    def derive(cls, source: Refund) -> Mapping[str, Any]:
        """Return the amount in whole tokens, calldata in hex, and a final failure."""
        # One that is being replaced by a no-op has a reason but has not failed yet.
        is_failure = source.failure_code is not None and source.status.is_final
        calldata = source.calldata
        return {
            "amount": format_units(source.amount, source.decimals),
            "calldata": None if calldata is None else f"0x{calldata.hex()}",
            "failure": source if is_failure else None,
        }


class RefundListDocument(Document):
    """A page of refunds, newest first."""

    refunds: list[RefundDocument] = says("The refunds of this page.")
    next_cursor: RefundId | None = says("The `cursor` of the next page.")


class BatchResultDocument(Document):
    """What became of one member."""

    idempotency_key: IdempotencyKey
    status: int = says("What the single request would have answered.")
    refund: RefundDocument = says(optional=True)
    problem: ProblemDocument = says(optional=True)
    retry_after: Count = says(
        "Seconds after which to repeat this member.", optional=True
    )


class BatchResultsDocument(Document):
    """One result for each member, in their order."""

    results: list[BatchResultDocument] = says("Look at each of them.")


class EventDocument(Document):
    """A change of a refund."""

    id: EventId = says("The event's id.")
    type: EventType = says("What happened; later versions may have more types.")
    timestamp: Timestamp = says("When it happened.", "at")
    sequence: Count = says("Its place in the order of all events.")
    data: RefundDocument


class EventListDocument(Document):
    """A page of events, oldest first."""

    events: list[EventDocument] = says("The events of this page.")
    next_cursor: Annotated[str, text(pattern="^[0-9]{1,16}$")] = says(
        "The `after` of the next page; that of the request if this one is empty."
    )


class _WebhookTestData(Document):
    """What is tested."""

    tenant: str = says("The tenant's name.")


class WebhookTestDocument(Document):
    """A test of the operator's: answer 2xx, and do nothing else."""

    id: EventId = says("The message's id.")
    type: Literal["webhook.test"] = says("It is no event of a refund.")
    timestamp: Timestamp = says("When it was sent.")
    data: _WebhookTestData


class _WebhookKey(Document):
    """A JSON Web Key (RFC 8037)."""

    kty: str = says("`OKP`: the kind of the key.")
    crv: str = says("`Ed25519`: the curve.")
    use: str = says("`sig`: it verifies signatures.")
    alg: str = says("`EdDSA`: the algorithm of the signatures `v1a`.")
    kid: str = says("Names the key, for people and logs; webhooks do not name it.")
    x: str = says("The 32 bytes of the public key, as Base64url without padding.")
    standard_webhooks_key: str = says(
        "The same key for libraries: `whpk_` and its bytes as Base64."
    )


class WebhookKeysDocument(Document):
    """A set of public keys."""

    keys: list[_WebhookKey] = says(
        "All keys that are in use: accept a webhook that one of them has signed."
    )


def event_of(event: Event, refund: Refund) -> EventDocument:
    return EventDocument.of(event, data=event.refund_then(refund))


def event_document(event: Event, refund: Refund) -> dict[str, Any]:
    """Return *event* of *refund* as JSON: what a webhook receives."""
    return event_of(event, refund).dump()
