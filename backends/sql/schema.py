"""
The tables and their columns, as the newest migration leaves them.

The columns have the names and the order of the fields in ``signer.model``, so a row can
be passed to ``Refund`` as it is.  A change of this file needs a migration; a test
compares the two.  Constraints and indexes are in the migrations only, and
``docs/reference/database.md`` explains them.
"""

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, Table

from backends.sql.columns import FreeText, Named, Plain, Uint256, UTCDateTime
from signer.model.approval import ApprovalState
from signer.model.delivery import DeliveryState
from signer.model.key import KeyState
from signer.model.refund import OPEN, UNSENT, Kind, Status
from signer.model.wallet import Pause


HEAD = "0012"
"""The newest migration, which this program needs; a test checks that it is."""

FIRST = "0005"
"""The first revision in which every row that pays or limits has a MAC.

An upgrade from an earlier one would have to trust the rows as they are, because the
database claims that revision.  So there is none."""


def status_in(statuses: frozenset[Status]) -> str:
    """
    Return the SQL condition that the status is one of *statuses*, with literals.

    With parameters instead, neither planner would use a partial index.
    """
    return "status IN ({})".format(", ".join(f"'{name}'" for name in sorted(statuses)))


IS_OPEN = status_in(OPEN)

IS_CLAIMABLE = status_in(UNSENT | {Status.BROADCAST})
"""Whether a worker has something to do, now or later."""

metadata = MetaData()

refunds = Table(
    "refunds",
    metadata,
    Column("id", Plain, primary_key=True),
    Column("tenant", Plain, nullable=False),
    Column("idempotency_key", Plain, nullable=False),
    Column("fingerprint", Plain, nullable=False),
    Column("reference", Plain, nullable=False),
    Column("payment_session_id", Plain, nullable=False),
    Column("network", Plain, nullable=False),
    Column("chain_id", BigInteger, nullable=False),
    Column("token", Plain, nullable=False),
    Column("token_address", Plain, nullable=False),
    Column("decimals", Integer, nullable=False),
    Column("recipient", Plain, nullable=False),
    Column("amount", Uint256, nullable=False),
    Column("reason", Plain),
    Column("status", Named(Status), nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    Column("updated_at", UTCDateTime, nullable=False),
    Column("version", Integer, nullable=False),
    Column("sender", Plain),
    Column("key_id", Plain),
    Column("nonce", BigInteger),
    Column("gas_limit", BigInteger),
    Column("tx_hash", Plain),
    Column("block_number", BigInteger),
    Column("block_hash", Plain),
    Column("failure_code", Plain),
    Column("failure_detail", FreeText),
    Column("due_at", UTCDateTime, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("blocked_by", Plain),
    Column("mac", Plain),
    Column("cancel_requested_at", UTCDateTime),
    Column("calldata", LargeBinary),
)

transactions = Table(
    "transactions",
    metadata,
    Column("tx_hash", Plain, primary_key=True),
    Column("refund_id", Plain, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("kind", Named(Kind), nullable=False),
    Column("chain_id", BigInteger, nullable=False),
    Column("sender", Plain, nullable=False),
    Column("nonce", BigInteger, nullable=False),
    Column("max_fee_per_gas", Uint256, nullable=False),
    Column("max_priority_fee_per_gas", Uint256, nullable=False),
    Column("gas_limit", BigInteger, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("signed_at", UTCDateTime, nullable=False),
)

refund_moves = Table(
    "refund_moves",
    metadata,
    Column("refund_id", Plain, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("status", Named(Status), nullable=False),
    Column("at", UTCDateTime, nullable=False),
)

request_signatures = Table(
    "request_signatures",
    metadata,
    Column("refund_id", Plain, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("content_digest", Plain, nullable=False),
    Column("signature_input", Plain, nullable=False),
    Column("signature", Plain, nullable=False),
    Column("at", UTCDateTime, nullable=False),
)

answers = Table(
    "answers",
    metadata,
    Column("refund_id", Plain, primary_key=True),
    Column("body", Plain, nullable=False),
    Column("at", UTCDateTime, nullable=False),
)

wallets = Table(
    "wallets",
    metadata,
    Column("chain_id", BigInteger, primary_key=True),
    Column("sender", Plain, primary_key=True),
    Column("first_nonce", BigInteger, nullable=False),
    Column("paused_by", Named(Pause)),
    Column("paused_at", UTCDateTime),
    Column("version", Integer, nullable=False),
    Column("high_water", BigInteger),
    Column("mac", Plain),
)

sightings = Table(
    "sightings",
    metadata,
    Column("chain_id", BigInteger, primary_key=True),
    Column("sender", Plain, primary_key=True),
    Column("nonce", BigInteger, primary_key=True),
    Column("tx_hash", Plain, nullable=False),
    Column("mark", LargeBinary),
    Column("gas_limit", BigInteger, nullable=False),
    Column("block_number", BigInteger, nullable=False),
    Column("block_hash", Plain, nullable=False),
    Column("seen_at", UTCDateTime, nullable=False),
    Column("accepted_at", UTCDateTime),
    Column("mac", Plain),
)

spendings = Table(
    "spendings",
    metadata,
    Column("chain_id", BigInteger, primary_key=True),
    Column("token_address", Plain, primary_key=True),
    Column("tenant", Plain, primary_key=True),
    Column("recipient", Plain, primary_key=True),
    Column("hour", BigInteger, primary_key=True),
    Column("amount", Uint256, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("backend", Plain, nullable=False),
    Column("key_id", Plain, nullable=False),
    Column("address", Plain, primary_key=True),
    Column("state", Named(KeyState), nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    Column("updated_at", UTCDateTime, nullable=False),
    Column("epoch", BigInteger),
    Column("requested_by", Plain),
    Column("held_until", UTCDateTime),
    Column("blocked_by", Plain),
    Column("version", Integer, nullable=False),
    Column("mac", Plain),
    Column("proved_at", UTCDateTime),
)

audit_records = Table(
    "audit_records",
    metadata,
    Column("id", Plain, primary_key=True),
    Column("body", Plain, nullable=False),
    Column("sequence", BigInteger),
    Column("hash", LargeBinary),
    Column("mac", Plain),
)

audit_checkpoints = Table(
    "audit_checkpoints",
    metadata,
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("note", Plain, primary_key=True),
)

used_tokens = Table(
    "used_tokens",
    metadata,
    Column("jti", Plain, primary_key=True),
    Column("expires_at", UTCDateTime, nullable=False),
)

attempts = Table(
    "attempts",
    metadata,
    Column("bucket", Plain, primary_key=True),
    Column("period", BigInteger, primary_key=True),
    Column("count", BigInteger, nullable=False),
)

alerts = Table(
    "alerts",
    metadata,
    Column("name", Plain, primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("last_at", UTCDateTime, nullable=False),
)

tenant_blocks = Table(
    "tenant_blocks",
    metadata,
    Column("tenant", Plain, primary_key=True),
    Column("at", UTCDateTime, nullable=False),
    Column("by", Plain, nullable=False),
    Column("ended_at", UTCDateTime),
    Column("version", Integer, nullable=False),
    Column("mac", Plain),
)

approvals = Table(
    "approvals",
    metadata,
    Column("digest", Plain, primary_key=True),
    Column("action", Plain, nullable=False),
    Column("proposal", Plain, nullable=False),
    Column("reason", FreeText, nullable=False),
    Column("requested_by", Plain, nullable=False),
    Column("requested_at", UTCDateTime, nullable=False),
    Column("expires_at", UTCDateTime, nullable=False),
    Column("state", Named(ApprovalState), nullable=False),
    Column("decided_by", Plain),
    Column("decided_at", UTCDateTime),
    Column("refund_id", Plain),
    Column("version", Integer, nullable=False),
    Column("mac", Plain),
)

accepted_limits = Table(
    "accepted_limits",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("document", Plain, nullable=False),
    Column("accepted_at", UTCDateTime, nullable=False),
    Column("version", Integer, nullable=False),
    Column("mac", Plain),
)

stops = Table(
    "stops",
    metadata,
    Column("chain_id", BigInteger, primary_key=True, autoincrement=False),
    Column("at", UTCDateTime, nullable=False),
    Column("reason", FreeText, nullable=False),
    Column("requested_by", Plain, nullable=False),
    Column("resumed_at", UTCDateTime),
    Column("version", Integer, nullable=False),
    Column("mac", Plain),
)

events = Table(
    "events",
    metadata,
    Column("id", Plain, primary_key=True),
    Column("tenant", Plain, nullable=False),
    Column("refund_id", Plain, nullable=False),
    Column("version", Integer, nullable=False),
    Column("status", Named(Status), nullable=False),
    Column("at", UTCDateTime, nullable=False),
    Column("sender", Plain),
    Column("nonce", BigInteger),
    Column("tx_hash", Plain),
    Column("block_number", BigInteger),
    Column("failure_code", Plain),
    Column("failure_detail", Plain),
    Column("mac", Plain),
    Column("sequence", BigInteger),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("event_id", Plain, primary_key=True),
    Column("tenant", Plain, nullable=False),
    Column("refund_id", Plain, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("state", Named(DeliveryState), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", UTCDateTime, nullable=False),
    Column("problem", Plain),
    Column("updated_at", UTCDateTime, nullable=False),
    Column("version", Integer, nullable=False),
)

workers = Table(
    "workers",
    metadata,
    Column("name", Plain, primary_key=True),
    Column("started_at", UTCDateTime, nullable=False),
    Column("passed_at", UTCDateTime, nullable=False),
    Column("metrics", Plain, nullable=False),
)
