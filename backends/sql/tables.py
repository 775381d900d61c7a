"""
The tables, each declared once: its row, its rules, its grants and its documentation.

A column has the name and the place of the field of its class in ``signer.model``, so a
row can be passed to ``Refund`` as it is.  The baseline migration creates the tables,
with the triggers of ``backends.sql.triggers``.
"""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from backends.sql.columns import Plain, Uint256, UTCDateTime
from backends.sql.table_declaration import (
    READABLE,
    TABLES,
    check,
    declare,
    is_in,
    octets,
    one_of,
    outside,
    partial,
)
from signer.model.approval import Approval
from signer.model.audit_record import AuditShipping, Record
from signer.model.event import TYPES, Delivery, Event
from signer.model.hold import Hold
from signer.model.key import Key
from signer.model.payment import OPEN_STATES, PaymentPurpose, PaymentState
from signer.model.refund import Move, Refund
from signer.model.sealed_fields import KINDS
from signer.model.transaction import (
    TRANSACTION_MOVES,
    Membership,
    SignedTransaction,
    Transaction,
    TransactionStatus,
    compose,
)
from signer.model.wallet import UnrecordedTransaction, Wallet
from signer.model.worker_row import AcceptedLimits, WorkerRow
from signer.ports.audit_journal import Checkpoint


HEAD = "0001"
"""The newest migration, which this program needs; a test checks that it is."""

metadata = TABLES
"""The tables that are declared here."""


def state_in(*states: PaymentState) -> str:
    return is_in("state", states)


IS_OPEN = state_in(*OPEN_STATES)

_MOVABLE = {each for each, moves in TRANSACTION_MOVES.items() if moves}

IS_MOVABLE = is_in("status", _MOVABLE)
"""Whether a transaction is not final."""

IS_CLAIMABLE = is_in("status", _MOVABLE - {TransactionStatus.MINED})
"""Whether a worker has something to do with a transaction, now or later."""

IS_FILLER = "kind = 'filler'"
"""Whether a transaction makes no payments."""

ZERO = {"sqlite": f"'{0:078d}'", "postgresql": "0"}
"""By dialect: the amount zero."""

_MAX_REQUEST = 32 * 2**10  # The API accepts bodies of 16 KiB, and headers of 9 KiB.

_FIRST_STATUS = "version > 0 OR status IN ('awaiting-approval', 'queued')"

_PURPOSES: Mapping[PaymentPurpose, Sequence[str]] = {
    PaymentPurpose.REFUND: (),
    PaymentPurpose.CALL: ("purpose", "calldata"),
    PaymentPurpose.SWEEP: ("purpose", "bound_sender"),
}

_COVERED = KINDS[Refund].covered

_OF_SOME = frozenset(name for own in _PURPOSES.values() for name in own)

ACCEPTED: Mapping[PaymentPurpose, Sequence[str]] = {
    purpose: (
        *(name for name in _COVERED if name in own or name not in _OF_SOME),
        *("state", "updated_at", "due_at", "mac"),
    )
    for purpose, own in _PURPOSES.items()
}
"""The columns of a new row by its purpose.

The others have their defaults on PostgreSQL, where some roles may accept refunds alone,
and others no sweeps."""

_MOVE = "updated_at, version, due_at, attempts, blocked_by"

FIRST_EVENT = ("id", "tenant", "refund_id", "status", "at", "mac")
"""What the role that accepts refunds may insert: an acceptance, and no later event."""

PROPOSED = (
    *("digest", "proposal", "requested_by", "requested_at", "expires_at"),
    *("refund_id", "mac"),
)
"""The columns of a new proposal.  The others have their defaults: on PostgreSQL the
role that accepts refunds may set none of them, so it can approve nothing, and propose
nothing but refunds."""


refunds = declare(
    "refunds",
    Refund,
    sa.UniqueConstraint("tenant", "idempotency_key", name="uq_refunds_idempotency_key"),
    sa.UniqueConstraint("tenant", "reference", name="uq_refunds_reference"),
    sa.UniqueConstraint(
        *("chain_id", "sender", "nonce", "position"), name="uq_refunds_position"
    ),
    # Deferred: a reservation inserts the transactions of a batch after its refunds.
    sa.ForeignKeyConstraint(
        ["chain_id", "sender", "nonce"],
        ["transactions.chain_id", "transactions.sender", "transactions.nonce"],
        "fk_refunds_transaction",
        deferrable=True,
        initially="DEFERRED",
    ),
    sa.CheckConstraint(
        "(purpose = 'call') = (calldata IS NOT NULL)"
        " AND (purpose = 'sweep') = (bound_sender IS NOT NULL)",
        "purposes",
    ),
    # A call may have no value.  Everything else pays something.
    *check(
        "amount",
        **{
            dialect: f"amount > {zero} OR (calldata IS NOT NULL AND amount >= {zero})"
            for dialect, zero in ZERO.items()
        },
    ),
    *check(
        "calldata",
        sqlite="calldata IS NULL OR length(calldata) <= 16384",
        postgresql="calldata IS NULL OR octet_length(calldata) <= 16384",
    ),
    sa.CheckConstraint(
        "chain_id > 0 AND decimals >= 0 AND version >= 0 AND position >= 0", "ranges"
    ),
    sa.CheckConstraint(
        "(state IN ('awaiting-approval', 'cancelled', 'queued', 'refused'))"
        " = (nonce IS NULL)"
        " AND (nonce IS NULL) = (sender IS NULL)"
        " AND (nonce IS NULL) = (position IS NULL)",
        "assignment",
    ),
    # A worker reads refunds in batches: one that Python cannot read would stop all of
    # them.  So would an amount with millions of decimals, which takes minutes to write
    # out, and texts that do not fit into its memory.
    *check(
        "readable",
        postgresql="amount <> 'NaN' AND decimals <= 36"
        f" AND created_at {READABLE} AND updated_at {READABLE}"
        f" AND due_at {READABLE} AND cancel_requested_at {READABLE}"
        f" AND {octets(Refund, *KINDS[Refund].covered, 'mac')} <= 16000",
    ),
    sa.Index("ix_refunds_tenant", "tenant", "id"),
    sa.Index("ix_refunds_session", "tenant", "payment_session_id", "id"),
    sa.Index("ix_refunds_state", "tenant", "state", "id"),
    partial("ix_refunds_open", "id", where=IS_OPEN),
    partial("ix_refunds_queued", "tenant", "due_at", "id", where="state IN ('queued')"),
    partial(
        "ix_refunds_result",
        "chain_id",
        "updated_at",
        where="state IN ('confirmed', 'failed')",
    ),
    partial(
        "ix_refunds_confirmed",
        *("chain_id", "token_address", "recipient", "updated_at"),
        where="state IN ('confirmed')",
    ),
    partial("ix_refunds_awaiting", "id", where="state = 'awaiting-approval'"),
    partial(
        "ix_refunds_cancel_requested",
        "id",
        where="state IN ('awaiting-approval', 'queued')"
        " AND cancel_requested_at IS NOT NULL",
    ),
    doc="one row per refund: what is owed, and the place in the transaction that pays"
    " it; never deleted",
    verified="before every step and every change other than a delay",
    otherwise="the refund waits with `row-not-authentic`; an alert; other refunds "
    "continue",
    defaults={"version": "0", "attempts": "0", "purpose": "refund"},
    grants={
        "all": "SELECT",
        "refunds sign admin": f"INSERT ({', '.join(ACCEPTED[PaymentPurpose.REFUND])})",
        "refunds admin": "UPDATE (cancel_requested_at)",
        "sign admin": "INSERT (purpose, calldata)",
        "admin": "INSERT (bound_sender)",
        "worker admin": f"UPDATE (state, {_MOVE}, sender, nonce, position)",
        "worker": "UPDATE (failure_code, failure_detail)",
    },
)

IS_OF_TENANT = refunds.c.bound_sender.is_(None)
"""Whether a tenant asked for it: sweeps have a bound sender."""

HELD = (*KINDS[Transaction].covered, "mac", "status", *_MOVE.split(", "))
"""The columns of a new transaction that a role may insert which can set no outcome."""

transactions = declare(
    "transactions",
    Transaction,
    sa.CheckConstraint(
        "chain_id > 0 AND nonce >= 0 AND gas_limit > 0 AND version >= 0"
        " AND block_number >= 0",
        "ranges",
    ),
    sa.CheckConstraint(
        "status IN ('failed', 'reserved') OR tx_hash IS NOT NULL", "attempt"
    ),
    sa.CheckConstraint(
        "NOT (status IN ('confirmed', 'mined'))"
        " OR (block_number IS NOT NULL AND block_hash IS NOT NULL)",
        "block",
    ),
    *check(
        "readable",
        postgresql=f"created_at {READABLE} AND updated_at {READABLE}"
        f" AND due_at {READABLE} AND {octets(Transaction)} <= 2000",
    ),
    # Nothing else may have the composition of nothing.
    sa.CheckConstraint(f"({IS_FILLER}) = (composition = '{compose(())}')", "filler"),
    sa.CheckConstraint("(kind = 'batch') = (vault IS NOT NULL)", "vault"),
    # Also if another program removes the payment of a transaction: while it exists, no
    # other one pays the same.  A batch may, once the chain shows what it has not paid.
    partial(
        "uq_transactions_composition",
        "composition",
        where="kind NOT IN ('batch', 'filler')",
        unique=True,
    ),
    partial("ix_transactions_fillers", "due_at", where=IS_FILLER),
    partial("ix_transactions_movable", "chain_id", "sender", "nonce", where=IS_MOVABLE),
    partial("ix_transactions_due", "due_at", where=IS_CLAIMABLE),
    doc="one row per nonce of a wallet: what it does, with which key, and its status",
    verified="before every step and every change other than a delay, with the refunds"
    " that it pays. The one with the highest nonce: whenever its wallet is read",
    otherwise="its refunds wait with `row-not-authentic`; an alert; other refunds"
    " continue. While it has the highest nonce, the wallet counts as paused",
    defaults={"version": "0", "attempts": "0"},
    grants={
        "all": "SELECT",
        "worker": f"INSERT, UPDATE (status, {_MOVE}, tx_hash, block_number,"
        " block_hash)",
        # A revocation locks them, for which PostgreSQL demands an UPDATE.
        "admin": f"INSERT ({', '.join(HELD)}), UPDATE (updated_at), DELETE",
    },
)

transaction_payments = declare(
    "transaction_payments",
    Membership,
    sa.ForeignKeyConstraint(["payment_id"], ["refunds.id"], "fk_payments_refund"),
    sa.ForeignKeyConstraint(
        ["chain_id", "sender", "nonce"],
        ["transactions.chain_id", "transactions.sender", "transactions.nonce"],
        "fk_payments_transaction",
    ),
    sa.UniqueConstraint(
        *("chain_id", "sender", "nonce", "position"), name="uq_payments_position"
    ),
    doc="the refunds of each transaction, also those that had another one later",
    unprotected="the MAC of the transaction covers a digest of them; a row that is"
    " added only keeps its refund from being signed, with an alert. Before a refund"
    " gets another transaction, the chain must show that no earlier one has paid it",
    grants={
        "all": "SELECT",
        "worker admin": "INSERT",
        "admin": "DELETE",
    },
    sqlite_with_rowid=False,
)

attempts = declare(
    "attempts",
    SignedTransaction,
    sa.UniqueConstraint(
        *("chain_id", "sender", "nonce", "attempt"), name="uq_attempts_number"
    ),
    sa.ForeignKeyConstraint(
        ["chain_id", "sender", "nonce"],
        ["transactions.chain_id", "transactions.sender", "transactions.nonce"],
        "fk_attempts_transaction",
    ),
    sa.CheckConstraint(
        "attempt >= 0 AND chain_id > 0 AND nonce >= 0 AND gas_limit > 0"
        " AND max_priority_fee_per_gas <= max_fee_per_gas",
        "ranges",
    ),
    sa.Index("ix_attempts_signed_at", "chain_id", "signed_at"),
    doc="every attempt: the signed bytes of a transaction",
    unprotected="the bytes are compared with their refund before they are sent",
    grants={
        "refunds worker admin": "SELECT",
        "worker": "INSERT",
    },
)

refund_moves = declare(
    "refund_moves",
    Move,
    sa.ForeignKeyConstraint(["refund_id"], ["refunds.id"], "fk_refund_moves_refund"),
    sa.CheckConstraint(_FIRST_STATUS, "first"),
    doc="one row per status change; claims and delays are not included",
    unprotected="history decides nothing",
    defaults={"version": "0"},
    grants={
        "refunds admin": "SELECT",
        "refunds sign": "INSERT (refund_id, status, at)",
        "worker admin": "INSERT",
    },
    sqlite_with_rowid=False,  # One B-tree for table and primary key.
)

request_signatures = declare(
    "request_signatures",
    sa.Column("refund_id", Plain, primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("content_digest", Plain, nullable=False),
    sa.Column("signature_input", Plain, nullable=False),
    sa.Column("signature", Plain, nullable=False),
    sa.Column("at", UTCDateTime, nullable=False),
    sa.ForeignKeyConstraint(
        ["refund_id"], ["refunds.id"], "fk_request_signatures_refund"
    ),
    *check(
        "readable",
        postgresql=f"octet_length(body) <= {_MAX_REQUEST}"
        " AND octet_length(content_digest || signature_input || signature)"
        f" <= {_MAX_REQUEST}",
    ),
    doc="the requests of tenants that [sign](../how-to/sign-requests.md): body, "
    "signature, and when they were stored",
    unprotected="the tenant's signature is verified instead",
    grants={
        "refunds sign admin": "INSERT",
        "worker": "SELECT",
    },
)

wallets = declare(
    "wallets",
    Wallet,
    sa.CheckConstraint("chain_id > 0 AND first_nonce >= 0 AND version >= 0", "ranges"),
    sa.CheckConstraint("(paused_by IS NULL) = (paused_at IS NULL)", "pause"),
    doc="one row per chain and paying address: its first nonce, and whether it is "
    "paused",
    verified="at every read, and by each reservation",
    otherwise="it counts as paused. `hotwallet restore` opens it again, paused until "
    "every nonce that it has signed is final "
    "([alarms.md](../how-to/alarms.md#a-row-is-not-authentic)); an alert",
    grants={
        "all": "SELECT",
        "worker admin": "INSERT, "
        "UPDATE (paused_by, paused_at, version, high_water, mac)",
    },
)

unrecorded = declare(
    "unrecorded_transactions",
    UnrecordedTransaction,
    sa.ForeignKeyConstraint(
        ["chain_id", "sender"],
        ["wallets.chain_id", "wallets.sender"],
        "fk_unrecorded_transactions_wallet",
    ),
    sa.CheckConstraint(
        "nonce >= 0 AND position >= 0 AND gas_limit > 0 AND block_number >= 0", "ranges"
    ),
    sa.Index("ix_unrecorded_transactions_memo", "chain_id", "memo"),
    doc="final transactions of a wallet that the database did not have, one row per"
    " nonce, or per item of a batch",
    verified="with the memo of a refund: before the refund counts as paid. The one with"
    " the highest nonce: whenever its wallet is read. All of a wallet: before the"
    " wallet is resumed",
    otherwise="the refund waits, or the wallet counts as paused, until the owner of the"
    " tables deletes the row; a worker then records what the chain has",
    grants={
        "all": "SELECT",
        "worker admin": "INSERT, UPDATE (accepted_at, mac)",
    },
)

spendings = declare(
    "spendings",
    sa.Column("chain_id", sa.BigInteger, primary_key=True),
    sa.Column("token_address", Plain, primary_key=True),
    sa.Column("tenant", Plain, primary_key=True),
    sa.Column("recipient", Plain, primary_key=True),
    sa.Column("hour", sa.BigInteger, primary_key=True),
    sa.Column("amount", Uint256, nullable=False),
    doc="amounts per chain, token (`gas`: gas), tenant (empty: all), recipient "
    "(empty: all) and hour, for the limits",
    unprotected="a role that can reset the sums cannot make a payment",
    grants={
        "all": "SELECT",
        "worker sign": "INSERT, UPDATE (amount)",
    },
)

keys = declare(
    "keys",
    Key,
    sa.UniqueConstraint("backend", "key_id", name="uq_keys_id"),
    sa.UniqueConstraint("epoch", name="uq_keys_epoch"),
    sa.CheckConstraint(
        "state NOT IN ('active', 'blocked', 'draining', 'retired')"
        " OR epoch IS NOT NULL",
        "epoch",
    ),
    sa.CheckConstraint("version >= 0 AND epoch > 0", "ranges"),
    *check("readable", postgresql=f"proved_at {READABLE}"),
    # At most one active and one pending key, which also makes rotations exclusive.
    partial("uq_keys_active", "state", where="state = 'active'", unique=True),
    partial("uq_keys_pending", "state", where="state = 'pending'", unique=True),
    doc="the key ring: pinned id, address, state and epoch; a failover replaces the id",
    verified="at every read",
    otherwise="nothing is signed; an alert",
    grants={
        "all": "SELECT",
        "worker admin": "INSERT, UPDATE (state, updated_at, epoch, requested_by,"
        " blocked_by, version, mac)",
        "worker": "UPDATE (proved_at)",
        "admin": "UPDATE (key_id, held_until)",
    },
)

audit_records = declare(
    "audit_records",
    Record,
    outside("sequence", sa.BigInteger, "it is the place in the hash chain"),
    outside("hash", sa.LargeBinary, "it is computed from the chain"),
    sa.UniqueConstraint("sequence", name="uq_audit_records_sequence"),
    sa.CheckConstraint("(sequence IS NULL) = (hash IS NULL) AND sequence > 0", "seal"),
    partial("ix_audit_records_unsealed", "id", where="sequence IS NULL"),
    partial(
        "ix_audit_records_configuration",
        "id",
        where="""body LIKE '%"event":"configuration-loaded"%'""",
    ),
    partial("ix_audit_records_holds", "id", where="""body LIKE '%"hold_changes":%'"""),
    doc="audit records as canonical JSON, with sequence number and hash once assigned",
    verified="before it gets its sequence number, and when another process gave it one",
    otherwise="a later record of the chain declares it forged "
    "([audit.md](audit.md#forged-records)); an alert",
    grants={
        "all": "SELECT, INSERT (id, body, mac)",
        "worker admin": "UPDATE (sequence, hash)",
    },
)

audit_checkpoints = declare(
    "audit_checkpoints",
    Checkpoint,
    # A role that may insert checkpoints can insert any text.  One of a length that is
    # taken must not keep ours out, so the note is a part of the key, and has a limit.
    *check(
        "fits",
        sqlite="typeof(size) = 'integer' AND typeof(note) = 'text'"
        " AND size > 0 AND length(CAST(note AS BLOB)) <= 2000",
        postgresql="size > 0 AND octet_length(note) <= 2000",
    ),
    doc="signed statements of the chain's length and last hash",
    unprotected="each has a signature",
    grants={
        "worker admin": "SELECT, INSERT",
    },
    sqlite_with_rowid=False,
)

audit_shipping = declare(
    "audit_shipping",
    AuditShipping,
    sa.CheckConstraint("id = 1", "one"),
    doc="one row: how much of the log is at `AUDIT_SHIP_TO`"
    " ([audit.md](../reference/audit.md#shipping))",
    verified="when it is shipped or signed",
    otherwise="nothing counts as shipped: what the place has is compared again",
    grants={
        "worker sign admin": "SELECT",
        "worker": "INSERT, UPDATE (place, sequence, hash, complete_at, version, mac)",
    },
)

used_tokens = declare(
    "used_tokens",
    sa.Column("jti", Plain, primary_key=True),
    sa.Column("expires_at", UTCDateTime, nullable=False),
    sa.Index("ix_used_tokens_expires_at", "expires_at"),
    doc="administrative tokens that were used, until they expire",
    unprotected="a used token has a signature, and lives for five minutes",
    grants={
        "admin": "SELECT, INSERT, UPDATE (expires_at), DELETE",
    },
)

rate_counters = declare(
    "rate_counters",
    sa.Column("bucket", Plain, primary_key=True),
    sa.Column("period", sa.BigInteger, primary_key=True),
    sa.Column("count", sa.BigInteger, nullable=False),
    sa.Index("ix_rate_counters_period", "period"),
    doc="rate limit counts per client (a hash) and minute; old minutes are deleted",
    unprotected="it limits requests, and pays nothing",
    grants={
        "refunds admin sign": "SELECT, INSERT, UPDATE (count), DELETE",
    },
)

alerts = declare(
    "alerts",
    sa.Column("name", Plain, primary_key=True),
    sa.Column("count", sa.BigInteger, nullable=False),
    sa.Column("last_at", UTCDateTime, nullable=False),
    doc="how often each alert was raised, and when last; the counts of all processes "
    "(requests, refusals, decisions of the policy, signatures), by the name of the "
    "[metric](metrics.md) and its labels; and when "
    "a worker last asked the nodes for the head of a chain, and what it saw, as "
    "`look head CHAIN_ID`, or compared nonces, as `look wallets`",
    unprotected="it is measured, and decides nothing about what is signed",
    grants={
        "all": "SELECT, INSERT, UPDATE (count, last_at)",
    },
)

approvals = declare(
    "approvals",
    Approval,
    partial(
        "ix_approvals_open",
        *("requested_at", "digest"),
        where="state IN ('approved', 'waiting')",
    ),
    partial("ix_approvals_refund", "refund_id", where="refund_id IS NOT NULL"),
    partial("ix_approvals_signed", "decided_at", where="signatures IS NOT NULL"),
    doc="[changes and refunds that need two people](../how-to/approvals.md), by the "
    "digest of what would be done: who asked, who decided, until when, the refund, "
    "and the signatures of approvers who have keys of their own",
    verified="at every read",
    otherwise="it approves nothing; lists leave it out and count it, with an alert; a "
    "repeated request replaces the row",
    defaults={"action": "refund-pay", "reason": "", "state": "waiting", "version": "0"},
    grants={
        "all": "SELECT",
        "refunds sign": f"INSERT ({', '.join(PROPOSED)})",
        "worker admin": "INSERT, UPDATE (reason, state, decided_by, decided_at,"
        " expires_at, signatures, version, mac)",
        "admin": "UPDATE (action, proposal, requested_by, requested_at, refund_id)",
    },
)

accepted_limits = declare(
    "accepted_limits",
    AcceptedLimits,
    sa.CheckConstraint("id = 1", "one"),
    doc="one row: the limits of the networks file and the tenants file with which the"
    " last worker started, as a JSON list of paths and values "
    "([approvals.md](../how-to/approvals.md#raise-a-limit))",
    verified="at every start",
    otherwise="no limit counts as accepted: each start needs an approval of all of "
    "them, "
    "which replaces the row",
    grants={
        "all": "SELECT",
        "worker": "INSERT, UPDATE (document, accepted_at, version, mac)",
    },
)

holds = declare(
    "holds",
    Hold,
    sa.CheckConstraint(
        "name IN ('everything', 'register')"
        " OR name LIKE 'network %' OR name LIKE 'token %' OR name LIKE 'tenant %'",
        "name",
    ),
    doc="the last hold of everything (`everything`), of each network (`network` and"
    " the chain id), of each token there (`token`, the chain id and the"
    " contract in lower case) and of each [tenant](tenants.md) (`tenant` and the name):"
    " since when, by whom or by which [rule](networks.md), why, and when it was ended;"
    " and the `register` of all holds",
    verified="at every read, with the register, which a new ledger has: it lists the"
    " version of each hold, and counts the changes",
    otherwise="it is in force, and is listed as not authentic; others continue. So is"
    " one that the register lists and the table lacks or has in another version."
    " Without a valid register, or with an older one than the process or the audit log"
    " (`hold_changes`, read every ten seconds) knows, everything is held:"
    " `hotwallet stop` begins a new one. An operator stops and resumes again,"
    " or blocks and unblocks"
    " ([row-not-authentic](../how-to/alarms.md#a-row-is-not-authentic))",
    grants={
        "all": "SELECT",
        "worker admin": "INSERT,"
        " UPDATE (at, reason, requested_by, alert, evidence, ended_at, version, mac)",
    },
)

events = declare(
    "events",
    Event,
    one_of("status", frozenset(TYPES)),
    sa.CheckConstraint(_FIRST_STATUS, "first"),
    *check(
        "readable",
        postgresql=f"at {READABLE} AND {octets(Event)} <= 20000",
    ),
    partial("ix_events_new", "refund_id", "version", where="sequence IS NULL"),
    partial("uq_events_sequence", "sequence", where="sequence > 0", unique=True),
    partial("ix_events_tenant", "tenant", "sequence", where="sequence > 0"),
    doc="what happened to a refund and when, for its [tenant](../how-to/webhooks.md):"
    " what changed, and the place in the order once it is assigned",
    verified="before it gets its place, and whenever it is read, with its refund",
    otherwise="it is left out of the order, and not delivered; an alert",
    defaults={"version": "0"},
    grants={
        "refunds worker admin": "SELECT",
        "refunds sign admin": f"INSERT ({', '.join(FIRST_EVENT)})",
        "worker": f"INSERT ({', '.join((*KINDS[Event].covered, 'mac'))}),"
        " UPDATE (sequence), DELETE",
    },
)

webhook_deliveries = declare(
    "webhook_deliveries",
    Delivery,
    *check(
        "readable",
        postgresql=f"due_at {READABLE} AND updated_at {READABLE}"
        f" AND {octets(Delivery)} <= 2000",
    ),
    partial("ix_webhook_deliveries_due", "tenant", "due_at", where="state = 'pending'"),
    partial("ix_webhook_deliveries_dead", "sequence", where="state = 'dead'"),
    sa.Index("ix_webhook_deliveries_refund", "refund_id", "sequence"),
    sa.Index("ix_webhook_deliveries_sequence", "sequence"),
    sa.Index("ix_webhook_deliveries_tenant", "tenant", "sequence"),
    doc="one row per event that a tenant's webhook must receive: whether it arrived, "
    "the attempts, when it is due",
    unprotected="it pays nothing; what is delivered is the event, which has a MAC",
    grants={
        "worker admin": "SELECT, INSERT,"
        " UPDATE (state, attempts, due_at, problem, updated_at, version)",
        "worker": "DELETE",
    },
)

workers = declare(
    "workers",
    WorkerRow,
    *check(
        "readable",
        sqlite="length(metrics) <= 65536 AND length(name) <= 64",
        # Python cannot read other times, and every process reads these rows.
        postgresql="octet_length(metrics) <= 65536 AND octet_length(name) <= 64"
        f" AND started_at {READABLE} AND passed_at {READABLE}",
    ),
    doc="one row per worker process: a random name, when it started, when it last "
    "completed a pass, and [what it measures](metrics.md) as JSON. Rows of killed"
    " workers are deleted when the next one starts",
    unprotected="it decides nothing about what is signed",
    grants={
        "all": "SELECT",
        "worker": "INSERT, UPDATE (passed_at, metrics), DELETE",
    },
)
