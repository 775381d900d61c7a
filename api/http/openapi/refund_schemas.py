"""The schemas of refunds: requests, refunds, batches and explanations."""

from api.http.body import MAX_BODY
from api.http.openapi.elements import (
    Element,
    closed,
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
from api.http.refund_batch import MAX_HEADER, MAX_MEMBERS
from api.views.codes import failure_codes
from signer.event_types import EventType
from signer.model.refund import Kind, Status
from signer.model.wallet import Pause


REFUND_ID_PATTERN = "^rf_[0-9a-f]{32}$"

EVENT_ID_PATTERN = "^evt_[0-9a-f]{32}$"

ADDRESS_PATTERN = "^0x[0-9a-fA-F]{40}$"

KEY_PATTERN = "^[!-~]{1,255}$"

_HASH_PATTERN = "^0x[0-9a-f]{64}$"


def address(description: str) -> Element:
    """Return the schema of an address with its EIP-55 checksum."""
    return text(description, pattern=ADDRESS_PATTERN, format="eip55-address")


def amount(description: str) -> Element:
    """Return the schema of an amount in whole tokens or coins."""
    return text(description, pattern=r"^[0-9]{1,78}(\.[0-9]{1,36})?$")


def wei(description: str) -> Element:
    """Return the schema of an amount of wei, as a decimal string."""
    return text(description, pattern="^[0-9]{1,78}$")


def _name(description: str) -> Element:
    return text(description, minLength=1, maxLength=128, pattern="^[!-~]+$")


_STATUS = one_of(
    Status,
    """
    `confirmed`, `cancelled`, `refused` and `failed` are final. Only `confirmed` is
    paid, except where `failure.code` is `already-paid`. `refused` ended without a
    nonce, and `failed` had one.
    """,
)

_HASH = text("The hash of a transaction.", pattern=_HASH_PATTERN)

_REQUESTED: dict[str, Element] = {
    "payment_session_id": _name("The payment to refund."),
    "network": _name("The name of a network: see `GET /v1/networks`."),
    "token": _name("The name of a token: see `GET /v1/tokens`."),
    "recipient": address(
        """
        Who is paid: an address with its EIP-55 checksum. Not the zero address, a
        precompiled contract, a token or the wallet itself.
        """
    ),
    "amount": text(
        """
        Whole tokens as a decimal string, such as `"12.50"`: no sign, exponent or
        separator, and at most as many decimals as the token has.
        """,
        pattern=r"^(0|[1-9][0-9]{0,77})(\.[0-9]{1,36})?$",
        maxLength=128,
        format="token-amount",
    ),
    "reason": nullable(
        text(
            "Null or left out: none. Text for people, without control characters.",
            minLength=1,
            maxLength=256,
            pattern="^[^\\u0000-\\u001f\\u007f-\\u009f\\u2028\\u2029]*$",
        )
    ),
    "reference": nullable(
        _name(
            """
            The caller's name of this refund, which is paid once. Null or left out: the
            value of `payment_session_id`. A second refund of one payment needs its own,
            also after a cancelled, refused or failed one.
            """
        )
    ),
}

_IDEMPOTENCY_KEY = text(
    "As the header `Idempotency-Key` of a single request.", pattern=KEY_PATTERN
)

_FAILURE = record(
    "Why a final refund was not paid as requested.",
    code=one_of(
        failure_codes(),
        """
        `already-paid`: this service has paid it before. `/problems/{code}` explains
        each.
        """,
    ),
    detail=nullable(text("The same for people.")),
)

_SIGNED_MEMBER = {
    "body": text(
        "The text of the body of the single request.", minLength=1, maxLength=MAX_BODY
    ),
    "content_digest": text("As the header `Content-Digest`.", maxLength=MAX_HEADER),
    "signature_input": text("As the header `Signature-Input`.", maxLength=MAX_HEADER),
    "signature": text("As the header `Signature`.", maxLength=MAX_HEADER),
}

_OPTIONAL = ("reason", "reference")

_MOVE = record(
    "A change of the status.", status=_STATUS, at=timestamp("When it was made.")
)

_TRANSACTION = record(
    "A signed transaction of the refund's nonce.",
    tx_hash=_HASH,
    attempt=integer("Counts the attempts from 0.", minimum=0),
    kind=one_of(Kind, "`noop` consumes the nonce and pays nothing."),
    gas_limit=integer("The gas limit.", minimum=0),
    signed_at=timestamp("When it was signed."),
    max_fee_per_gas=wei("In wei."),
    max_priority_fee_per_gas=wei("In wei."),
)

_NONCE = record(
    "The refund's nonce.",
    nonce=integer("The nonce, for the life of the refund.", minimum=0),
    waits_for=list_of(
        record(
            "A refund whose nonce must be used first.",
            refund=nullable(
                text("Its id; null if it is another tenant's.", pattern="^rf_")
            ),
            nonce=integer("Its nonce.", minimum=0),
            status=_STATUS,
        ),
        "Up to five open refunds with lower nonces.",
    ),
)

_FOREIGN = record(
    "A final transaction of the wallet that this service did not make.",
    nonce=integer("Its nonce.", minimum=0),
    tx_hash=_HASH,
    block_number=integer("Its block.", minimum=0),
    seen_at=timestamp("When the service found it."),
)

WALLET = record(
    "The wallet that pays, in the database and on the chain.",
    address=address("The wallet's address."),
    chain_id=integer("The chain."),
    next_nonce=integer("The next nonce in the database.", minimum=0),
    paused_by=nullable(
        one_of([*Pause, "row-not-authentic"], "Why it assigns no new nonces.")
    ),
    paused_at=nullable(timestamp("Since when.")),
    chain_next_nonce=integer("The next nonce on the chain.", minimum=0),
    unseen=integer("How many nonces of the chain the database lacks.", minimum=0),
    foreign=list_of(_FOREIGN, "Transactions that this service did not make."),
)

_NODE = record(
    "What one node reports.",
    node=text("Its position in the configuration, such as `node-1`."),
    trusted=flag("Whether it counts towards the quorum."),
    error=nullable(text("The code of the error, if it did not answer.")),
    head=nullable(integer("Its newest block.")),
    next_nonce=nullable(integer("The wallet's next nonce in its newest block.")),
    pending_nonce=nullable(integer("The same, with its pool.")),
    transactions=mapping_of(
        one_of(("mined", "pending", "unknown"), "Where the node has it."),
        "The refund's transactions, by hash.",
    ),
)

_FEES = record(
    "The fees of the last transaction, and those of its replacement, in wei per gas.",
    max_fee_per_gas=wei("Of the last transaction."),
    max_priority_fee_per_gas=wei("Of the last transaction."),
    base_fee_per_gas=nullable(wei("The chain's; null without EIP-1559.")),
    replacement_max_fee_per_gas=nullable(
        wei("The least that replaces it; null if that exceeds the cap.")
    ),
    replacement_max_priority_fee_per_gas=nullable(wei("The same.")),
    cap=wei("The network's highest fee."),
    raise_at=timestamp("When the worker raises the fees."),
)

_EXPLANATION = record(
    "Why a refund has its status.",
    refund=schema("Refund"),
    summary=text("One sentence: the reason for the status."),
    next=record(
        "What happens next.",
        what=text("One sentence: also whether the caller must do something."),
        at=nullable(timestamp("When, if it is known.")),
    ),
    blocked_by=nullable(text("The code of the error that delays it.")),
    attempts=integer("Failures since the last change of the status.", minimum=0),
    policy=record(
        "Whether today's rules would accept it.",
        allowed=flag("Whether they would."),
        objection=nullable(text("Why they would not.")),
    ),
    history=list_of(_MOVE, "Each status and its time."),
    transactions=list_of(_TRANSACTION, "Everything that was signed for it."),
    nonce=nullable(_NONCE),
    stopped_at=nullable(timestamp("Since when signing is stopped.")),
    tenant_blocked_at=nullable(timestamp("Since when the tenant is blocked.")),
    wallet=nullable(WALLET),
    nodes=list_of(_NODE, "What each node reports."),
    confirmations=record(
        "How deep its block is.",
        head=nullable(integer("The newest block of the chain.")),
        required=nullable(integer("The confirmations that the network needs.")),
    ),
    fees=nullable(_FEES),
    unanswered=mapping_of(
        text("A code."), "What could not be asked, with the code of the error."
    ),
)

_BATCH_RESULT = record(
    "What became of one member.",
    ("refund", "problem", "retry_after"),
    idempotency_key=_IDEMPOTENCY_KEY,
    status=integer("What the single request would have answered."),
    refund=schema("Refund"),
    problem=schema("Problem"),
    retry_after=integer("Seconds after which to repeat this member.", minimum=0),
)

SCHEMAS: dict[str, Element] = {
    "RefundRequest": closed(record("A request for a refund.", _OPTIONAL, **_REQUESTED)),
    "Refund": record(
        "A refund of the caller's tenant.",
        id=text("The refund's id.", pattern=REFUND_ID_PATTERN),
        status=_STATUS,
        reference=_name("The caller's name of the refund."),
        payment_session_id=_name("The payment that is refunded."),
        network=_name("The network's name."),
        chain_id=integer("The network's chain id."),
        token=_name("The token's name."),
        token_address=address("The token's contract."),
        recipient=address("Who is paid."),
        amount=amount("Whole tokens, with all decimals of the token."),
        calldata=nullable(
            text(
                """
                What a client of JSON-RPC calls the recipient with; `0x` only sends
                coin. Null: a transfer of the token.
                """,
                pattern="^0x([0-9a-f]{2})*$",
            )
        ),
        reason=nullable(text("As requested.")),
        sender=nullable(address("The wallet that pays it; null without a nonce.")),
        nonce=nullable(
            integer("The number of its transaction; null without one.", minimum=0)
        ),
        tx_hash=nullable(
            text(
                "The newest transaction; null before one is signed.",
                pattern=_HASH_PATTERN,
            )
        ),
        block_number=nullable(integer("The block that has it.", minimum=0)),
        failure=nullable(_FAILURE),
        created_at=timestamp("When it was accepted."),
        updated_at=timestamp("When its status changed last."),
        cancel_requested_at=nullable(timestamp("When its cancellation was requested.")),
    ),
    "RefundList": record(
        "A page of refunds, newest first.",
        refunds=list_of(schema("Refund"), "The refunds of this page."),
        next_cursor=nullable(
            text("The `cursor` of the next page.", pattern=REFUND_ID_PATTERN)
        ),
    ),
    "BatchMember": closed(
        record(
            "A member of a batch: a key, and the fields of a refund.",
            _OPTIONAL,
            idempotency_key=_IDEMPOTENCY_KEY,
            **_REQUESTED,
        )
    ),
    "SignedBatchMember": closed(
        record(
            "A member of a batch of a tenant that signs its requests.",
            idempotency_key=_IDEMPOTENCY_KEY,
            **_SIGNED_MEMBER,
        )
    ),
    "BatchRequest": closed(
        record(
            "Requests for refunds, each with its own `idempotency_key`.",
            refunds=list_of(
                {"oneOf": [schema("BatchMember"), schema("SignedBatchMember")]},
                "Each is accepted or refused by itself.",
                minItems=1,
                maxItems=MAX_MEMBERS,
            ),
        )
    ),
    "BatchResult": _BATCH_RESULT,
    "BatchResults": record(
        "One result for each member, in their order.",
        results=list_of(schema("BatchResult"), "Look at each of them."),
    ),
    "Explanation": _EXPLANATION,
    "Event": record(
        "A change of a refund.",
        id=text("The event's id.", pattern=EVENT_ID_PATTERN),
        type=one_of(EventType, "What happened; later versions may have more types."),
        timestamp=timestamp("When it happened."),
        sequence=integer("Its place in the order of all events.", minimum=0),
        data=schema("Refund"),
    ),
    "WebhookTest": record(
        "A test of the operator's: answer 2xx, and do nothing else.",
        id=text("The message's id.", pattern=EVENT_ID_PATTERN),
        type=one_of(["webhook.test"], "It is no event of a refund."),
        timestamp=timestamp("When it was sent."),
        data=record("What is tested.", tenant=text("The tenant's name.")),
    ),
    "EventList": record(
        "A page of events, oldest first.",
        events=list_of(schema("Event"), "The events of this page."),
        next_cursor=text(
            "The `after` of the next page; that of the request if this one is empty.",
            pattern="^[0-9]{1,16}$",
        ),
    ),
    "WebhookKeys": record(
        "A set of public keys.",
        keys=list_of(
            record(
                "A JSON Web Key (RFC 8037).",
                kty=text("`OKP`: the kind of the key."),
                crv=text("`Ed25519`: the curve."),
                use=text("`sig`: it verifies signatures."),
                alg=text("`EdDSA`: the algorithm of the signatures `v1a`."),
                kid=text(
                    "Names the key, for people and logs; webhooks do not name it."
                ),
                x=text("The 32 bytes of the public key, as Base64url without padding."),
                standard_webhooks_key=text(
                    "The same key for libraries: `whpk_` and its bytes as Base64."
                ),
            ),
            "All keys that are in use: accept a webhook that one of them has signed.",
        ),
    ),
}
