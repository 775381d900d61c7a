"""The cost of the store: round trips per method, and an index for every query."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Connection, bindparam, insert, select, text

from backends.sql import (
    SQLStore,
    approvals,
    audit,
    claim_order,
    deliveries,
    events,
    queries,
    refund_reports,
    spending,
    tables,
)
from backends.sql.nonce_assignment import _RESERVE
from backends.sql.prepared import RowStatement, _Prepared
from backends.sql.refunds import REQUESTED
from backends.sql.statements import (
    INSERT_MOVES,
    KEEP,
    PLACE,
    RECORD,
    RELEASE,
    SAVE,
    SAVE_TRANSACTION,
    Values,
)
from backends.sql.tables import refunds, spendings
from backends.sql.wallet_rows import next_nonce
from signer.model.audit_record import Record
from signer.model.event import Delivery, DeliveryState
from signer.model.refund import Refund, Status
from signer.model.transaction import TransactionStatus
from signer.model.worker_row import WorkerRow
from signer.ports.event_store import DeliveryFilter
from signer.ports.refund_reports import RefundFilter
from tests.fixtures.ledger import (
    WALLET,
    accept,
    accepted,
    adopted,
    as_if,
    claimed,
    delay,
    filled,
    later,
    moved,
    now,
    opened,
    queued,
    reserve,
    save,
    signed,
    step_to,
    transaction,
)
from tests.support.keys import key_at
from tests.support.ledgers import collected_statements, open_ledger, query_plan, seal


KEY_ID = key_at(WALLET).key_id


# On SQLite and PostgreSQL.  A single statement is its own transaction; after BEGIN
# there is one COMMIT.  A move of a transaction leaves the row of its refund as it is.
EXPECTED = {
    "accept": ("BEGIN IMMEDIATE, SELECT, INSERT, INSERT, INSERT", "SELECT, WITH"),
    "replay": ("BEGIN IMMEDIATE, SELECT, INSERT, SELECT", "SELECT, WITH, SELECT"),
    "find earlier": ("SELECT", "SELECT"),
    "reserve": (
        f"BEGIN IMMEDIATE{', SELECT' * 3}, UPDATE{', INSERT' * 4}",
        f"BEGIN{', SELECT' * 4}, UPDATE{', INSERT' * 4}",
    ),
    "sign": (
        "BEGIN IMMEDIATE, UPDATE, INSERT, INSERT",
        "BEGIN, UPDATE, INSERT, INSERT",
    ),
    "move": (
        "BEGIN IMMEDIATE, UPDATE, INSERT, INSERT",
        "BEGIN, UPDATE, INSERT, INSERT",
    ),
    "postpone": ("BEGIN IMMEDIATE, UPDATE", "BEGIN, UPDATE"),
    "claim": ("WITH, BEGIN IMMEDIATE, UPDATE, SELECT", "WITH, BEGIN, UPDATE, SELECT"),
    "claim nothing": ("WITH", "WITH"),
    "advanced": ("SELECT", "SELECT"),
    "in flight": ("SELECT, SELECT", "SELECT, SELECT"),
    "below": ("SELECT", "SELECT"),
    "wallet": ("SELECT", "SELECT"),
    "find_unrecorded": ("SELECT", "SELECT"),
    "get": ("SELECT", "SELECT"),
    "ask to cancel": ("BEGIN IMMEDIATE, UPDATE, INSERT", "BEGIN, UPDATE, INSERT"),
    "prove": ("BEGIN IMMEDIATE, UPDATE", "UPDATE"),
    "record pass": ("BEGIN IMMEDIATE, INSERT", "INSERT"),
    "workers": ("SELECT", "SELECT"),
}


def _postponed(store: SQLStore, refund: Refund) -> Refund:
    after = delay(refund, now())
    save(store, refund, after)
    return after


def _steps(store: SQLStore) -> dict[str, Callable[[Refund], object]]:
    """Return a call of each frequent method, in a possible order."""
    accepted_before = accepted(store)
    return {
        "accept": lambda it: accept(store, it)[0],
        "replay": lambda it: accept(store, it)[0],
        "find earlier": lambda it: store.find_earlier(queued(), [it.tenant]),
        "reserve": lambda it: reserve(
            store, it, sender=WALLET, key_id=KEY_ID, gas_limit=1, counted=0, at=now()
        ),
        "sign": lambda it: signed(store, it),
        "move": lambda it: moved(store, it, Status.BROADCAST),
        "postpone": lambda it: _postponed(store, it),
        "claim": lambda it: claimed(store, later(1), later(21), 10)[0],
        "claim nothing": lambda it: store.claim(later(1), later(21), 10),
        "advanced": lambda it: store.find_advanced([it.id], [Status.QUEUED]),
        "in flight": lambda it: store.in_flight(10),
        "below": lambda it: store.open_below(it.chain_id, WALLET, 9, 10),
        "wallet": lambda it: store.wallet(it.chain_id, WALLET),
        "find_unrecorded": lambda it: store.find_unrecorded(it.chain_id, [it.memo]),
        "get": lambda it: store.get(it.id),
        "ask to cancel": lambda _: store.request_cancellation(
            accepted_before, now(), Record.of({"event": "test"}, now())
        ),
        "prove": lambda _: store.prove(WALLET, now()),
        "record pass": lambda _: store.record_pass(WorkerRow("a", now(), now())),
        "workers": lambda _: store.workers(),
    }


def test_each_method_has_few_round_trips(store: SQLStore) -> None:
    seen = {}
    refund = queued()
    opened(store)
    store.check()
    for name, step in _steps(store).items():
        with collected_statements(store) as statements:
            answer = step(refund)
        refund = answer if isinstance(answer, Refund) else refund
        seen[name] = ", ".join(
            each.partition(";")[0] if each.startswith("BEGIN") else each.split()[0]
            for each in statements
        )

    is_postgresql = store._database.dialect == "postgresql"
    assert seen == {name: each[is_postgresql] for name, each in EXPECTED.items()}


def test_the_audit_of_a_refund_needs_no_commit(store: SQLStore) -> None:
    """Intent and outcome belong to the transactions of reservation and signature."""
    opened(store)
    store.check()
    refund = accept(store, queued())[0]
    intent = Record.of({"event": "intent"}, now())
    outcome = Record.of({"event": "outcome"}, later(0.001))

    with collected_statements(store) as statements:
        refund = reserve(
            store,
            refund,
            sender=WALLET,
            key_id=KEY_ID,
            gas_limit=1,
            counted=0,
            at=now(),
            intent=intent,
        )
        after = step_to(refund, Status.SIGNED, now(), tx_hash="0x1")
        save(store, refund, after, transaction(refund, tx_hash="0x1"), outcome)
    seal(store)
    written = [each.record for each in store.sealed(0, 10)]
    begun = [each for each in statements if each.startswith("BEGIN")]

    assert written == [intent, outcome]
    assert len(begun) == 2


MOMENT = datetime(2026, 1, 31, tzinfo=UTC)

SEARCHES = (
    (RefundFilter(), "refunds"),
    (RefundFilter(recipient=WALLET), "refunds"),
    (RefundFilter(status=Status.REFUSED), "refunds"),
    (RefundFilter(status=Status.QUEUED), "ix_refunds_open"),
    (RefundFilter("tenant 3"), "ix_refunds_tenant"),
    (RefundFilter("tenant 3", Status.CONFIRMED), "ix_refunds_state"),
    (RefundFilter("tenant 3", Status.BROADCAST), "ix_refunds_state"),
    (RefundFilter(status=Status.BROADCAST), "ix_refunds_open"),
    (RefundFilter("tenant 3", payment_session_id="session 5"), "ix_refunds_session"),
    (
        RefundFilter("tenant 3", Status.QUEUED, payment_session_id="session 5"),
        "ix_refunds_session",
    ),
    (RefundFilter("tenant 3", network="n", min_amount=Decimal(1)), "ix_refunds_tenant"),
    (
        RefundFilter(accepted_from=MOMENT, accepted_before=MOMENT, network="n"),
        "refunds",
    ),
    (RefundFilter("tenant 3", accepted_from=MOMENT), "ix_refunds_tenant"),
)


def test_a_search_reads_a_bounded_part(
    filled_store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part that a page looks at is read in the order of an index."""
    monkeypatch.setattr(refund_reports, "SEARCHED", 50)
    for wanted, index in SEARCHES:
        for has_cursor in (False, True):
            query = refund_reports.found_among(wanted, has_cursor=has_cursor)
            given = refund_reports.parameters(wanted, queued().id)
            plan = query_plan(filled_store, query, {**given, "at_most": 10})

            if filled_store._database.path:
                assert index in plan
                assert "TEMP B-TREE" not in plan
            # PostgreSQL may read all transactions while they are few.
            assert "Seq Scan on refunds" not in plan


@dataclass(frozen=True)
class Plan:
    """What the plan of a statement names, and what it never does."""

    statement: Any
    index: str = ""
    on_postgresql: str | None = None
    """The name there; SQLite names the index of a constraint after the table."""
    never: Sequence[str] = ("Seq Scan", "SCAN refunds\n")
    given: Mapping[str, Any] = field(default_factory=dict)


GIVEN = {
    "ids": [queued().id],
    "nonces": [(31337, WALLET, 7)],
    "after": "",
    "at_most": 9,
    "places": 9,
    "full": [999],
    "of_sender": WALLET,
    "ahead": 4,
    "now": now(),
    "far": later(120),
    "until": later(20),
    "since": later(-60),
    "chain_id": 31337,
    "of_chain": 31337,
    "sender": WALLET,
    "nonce": 1500,
    "of_network": "local",
    "of_tenant": "tenant 3",
    "of_tenants": ["tenant 3"],
    "of_token": "TUSD",
    "code": "wallet-paused",
    "key": "key",
    "name": "order",
    "first": f"rf_{'f' * 32}",
    "token_address": "0x",
    "recipient": "0x",
}

_WALLET = (
    bindparam("chain_id", type_=refunds.c.chain_id.type),
    bindparam("sender", type_=refunds.c.sender.type),
)
(_ADVANCED,) = queries.advanced(
    [queued().id for _ in range(16)], [Status.QUEUED, Status.RESERVED, Status.SIGNED]
)
_AUTO, _QUEUED = "sqlite_autoindex_refunds_", "ix_refunds_queued"
_SORTS = ("TEMP B-TREE", "Sort")

PLANS = {
    "earlier": Plan(
        queries.EARLIER, never=("Seq Scan", "ix_refunds_tenant", "SCAN refunds")
    ),
    "reference": Plan(queries.BY_REFERENCE, _AUTO, "uq_refunds_"),
    "nonce": Plan(queries.BY_NONCE, _AUTO, "uq_refunds_", given={"nonce": 7}),
    # PostgreSQL may read the open refunds of all tenants if they are few.
    "open, of a tenant": Plan(queries.COUNT_OPEN, "ix_refunds_state", "ix_refunds_"),
    "awaited": Plan(
        queries.ADVANCED, never=("SCAN refunds", "Seq Scan on refunds"), given=_ADVANCED
    ),
    "in flight": Plan(queries.FLYING, "ix_transactions_movable"),
    # A wallet with a long queue is asked for its first one in each pass.
    "below": Plan(
        queries.BELOW, "ix_transactions_movable", never=("Seq Scan", *_SORTS)
    ),
    "without receipt": Plan(queries.WITHOUT_RECEIPT, "ix_transactions_"),
    "due": Plan(claim_order.DUE, _QUEUED),
    "due elsewhere": Plan(claim_order.DUE_ELSEWHERE, _QUEUED),
    "due sweeps": Plan(claim_order.DUE_SWEEPS, _QUEUED),
    "claim queued": Plan(claim_order.CLAIM_QUEUED, "refunds"),
    "claim transactions": Plan(claim_order.CLAIM_TRANSACTIONS, "transactions"),
    "to cancel": Plan(REQUESTED, "ix_refunds_cancel_requested"),
    "postpone network": Plan(claim_order.postponing("network"), _QUEUED),
    "postpone tenant": Plan(claim_order.postponing("tenant"), _QUEUED),
    "postpone token": Plan(
        claim_order.postponing("network", "tenant", "token"), _QUEUED
    ),
    "await approval": Plan(
        approvals.DECIDED, "ix_refunds_awaiting", never=["Seq Scan on refunds"]
    ),
    "signed lately": Plan(
        refund_reports.BY_TENANT,
        "ix_attempts_signed_at",
        never=("Seq Scan on attempts", "SCAN attempts"),
    ),
    "last results": Plan(refund_reports._LAST_RESULTS, "ix_refunds_result", never=[]),
    "open": Plan(refund_reports.OPEN_REFUNDS, "ix_refunds_open"),
    "accepted": Plan(refund_reports.ACCEPTED, f"{_AUTO}1", "pk_refunds"),
    "last payments": Plan(
        # PostgreSQL would read a table of 1,500 rows to find 200 of them.
        refund_reports.LAST_PAYMENTS,
        "ix_refunds_result",
        given={"at_most": 20},
    ),
    # Also of a recipient whom many refunds pay.
    "first payment": Plan(
        spending._FIRST_CONFIRMED, "ix_refunds_confirmed", given={"chain_id": 1}
    ),
    "hashes": Plan(
        queries.HASHES, "(chain_id=? AND sender=? AND nonce=?)", "", never=[]
    ),
    "recent fees": Plan(
        queries.MAX_FEES,
        "chain_id=? AND sender=?",
        "pk_transactions",
        never=("Seq Scan on refunds", "TEMP B-TREE"),
        given={"since": now(), "at_most": 20},
    ),
    "next nonce, of refunds": Plan(
        select(next_nonce(*_WALLET)),
        "SEARCH refunds_1 USING COVERING INDEX sqlite_autoindex_refunds_",
        "uq_refunds_position",
        never=("Seq Scan on refunds", *_SORTS),
    ),
    "next nonce, unrecorded": Plan(
        select(next_nonce(*_WALLET)),
        "SEARCH unrecorded_transactions_1 USING COVERING INDEX sqlite_autoindex_",
        "pk_unrecorded_transactions",
        never=["Seq Scan on unrecorded_transactions"],
    ),
}


@pytest.mark.parametrize("wanted", PLANS.values(), ids=PLANS)
def test_an_index_has_what_is_asked_for(filled_store: SQLStore, wanted: Plan) -> None:
    """The cost grows with what is open or asked for, not with what is final."""
    plan = query_plan(filled_store, wanted.statement, {**GIVEN, **wanted.given})
    names = [wanted.index]
    if not filled_store._database.path:
        of_constraint = wanted.on_postgresql
        names = [wanted.index if of_constraint is None else of_constraint]
        # It sometimes takes the other index of open refunds, which are few.
        names.append("ix_refunds_open")

    assert any(each in plan for each in names), plan
    assert [each for each in wanted.never if each in plan] == []


def test_transactions_are_limited_before_their_refunds_are_read(
    filled_store: SQLStore,
) -> None:
    """The inner limit comes before the rows of refunds."""
    plan = query_plan(filled_store, queries.BELOW, GIVEN)

    assert "CO-ROUTINE below" in plan or plan.count("Limit") == 2


def _analyze(store: SQLStore, command: str = "VACUUM ANALYZE") -> None:
    """Collect the statistics of PostgreSQL, as autovacuum does."""
    if store._database.dialect == "postgresql":
        store._database.run(lambda c: c.execute(text(command)))


@pytest.mark.parametrize("in_flight", [False, True], ids=["refunds", "transactions"])
def test_what_waits_is_not_read(store: SQLStore, *, in_flight: bool) -> None:
    """The cost grows with what is due, and not with what waits for a later time."""
    opened(store)
    statements = [claim_order.DUE]
    if in_flight:
        sent = {"status": Status.BROADCAST, "tx_hash": "0x1"}
        rows = [queued(**sent, nonce=n) for n in range(1500)]
        filled(store, [delay(each, later(60)) for each in rows])
        table, index = "transactions", "ix_transactions_due"
    else:
        filled(store, [queued(due_at=later(60)) for _ in range(1500)])
        table, index = "refunds", _QUEUED
        statements += (PLANS[f"postpone {each}"].statement for each in QUEUES)
    _analyze(store)

    # PostgreSQL may read a table of 1,500 rows to find more of them by their keys.
    given = {**GIVEN, "of_tenant": "gateway", "at_most": 2}
    for statement in statements:
        plan = query_plan(store, statement, given)
        assert f"SCAN {table}" not in plan
        assert f"Seq Scan on {table}" not in plan
        assert index in plan
        assert "due_at<" in plan or "due_at <=" in plan


QUEUES = ("network", "tenant", "token")


@pytest.mark.parametrize(
    "statement", [spending._RECENT, refund_reports.SPENT], ids=["limits", "report"]
)
def test_spendings_come_from_an_index(store: SQLStore, statement: Any) -> None:
    """R27: the limits and the report read the last 24 hours only."""
    rows = [
        {"chain_id": 31337, "token_address": WALLET, "tenant": f"tenant {n}"}
        | {"recipient": str(n), "hour": n, "amount": 1}
        for n in range(1500)
    ]
    store._database.transaction(lambda c: c.execute(insert(spendings), rows))
    _analyze(store, "ANALYZE")
    given = {
        "hour": None,
        "chain_id": 31337,
        "of_chain": 31337,
        "tokens": [WALLET, "gas"],
        "of_tenant": "",
        "tenants": ["", "gateway"],
        "recipients": ["", WALLET],
        "payments": [("", ""), ("", WALLET), ("gateway", ""), ("gateway", WALLET)],
    }
    dialect = store._database.dialect
    plan = query_plan(store, statement[dialect], given)

    columns = "chain_id=? AND token_address=? AND tenant=? AND recipient=? AND hour>?"
    assert {"sqlite": columns, "postgresql": "pk_spendings"}[dialect] in plan


_DEAD = DeliveryFilter(state=DeliveryState.DEAD)


def test_events_come_from_an_index(store: SQLStore) -> None:
    """What is new or due is found alone, however many events were delivered."""
    _fill_events(store, 3000)
    given = {
        "at_most": 9,
        "latest": 2**60,
        "of_tenant": "tenant 3",
        "after": 900,
        "now": now(),
        "until": later(60),
        "of_refund": "rf_3",
        "before": now(),
        "before_sequence": 2**60,
    }
    for statement, index in (
        (events.NEW, "ix_events_new"),
        (events.LAST, "uq_events_sequence"),
        (events.PAGE, "ix_events_tenant"),
        (deliveries.DUE_TENANTS, "ix_webhook_deliveries_due"),
        (deliveries.CLAIM, "ix_webhook_deliveries_due"),
        (deliveries.newest(_DEAD), "ix_webhook_deliveries_dead"),
        (deliveries.newest(replace(_DEAD, tenant="x")), "ix_webhook_deliveries_dead"),
        (deliveries.newest(DeliveryFilter()), "ix_webhook_deliveries_sequence"),
        (deliveries.newest(DeliveryFilter("x")), "ix_webhook_deliveries_tenant"),
        (
            deliveries.newest(DeliveryFilter(refund_id="x")),
            "ix_webhook_deliveries_refund",
        ),
        (events.OLD, "uq_events_sequence"),
        (deliveries.REPLAY_DEAD, "ix_webhook_deliveries_dead"),
    ):
        plan = query_plan(store, statement, given)

        assert index in plan
        assert "Seq Scan" not in plan
        assert "SCAN events\n" not in plan
        assert "SCAN webhook_deliveries\n" not in plan


def _fill_events(store: SQLStore, count: int) -> None:
    """Insert events that were delivered, and a few that are new, due or dead."""
    rows, sent = [], []
    for n in range(count):
        tenant, refund_id = f"tenant {n % 99}", f"rf_{n // 3}"
        event_id, is_new = f"evt_{n}", n % 1000 == 0
        rows.append(
            {"id": event_id, "tenant": tenant, "refund_id": refund_id, "version": n}
            | {"status": Status.QUEUED, "at": now()}
            | {"sequence": None if is_new else n + 1}
        )
        state = {50: "pending", 60: "dead"}.get(n % 100, "delivered")
        row = Delivery(
            *(event_id, tenant, refund_id, n + 1, DeliveryState(state)),
            *(1, now(), None, now(), 1),
        )
        sent.append(asdict(row))
    store._database.transaction(lambda c: c.execute(insert(tables.events), rows))
    table = tables.webhook_deliveries
    store._database.transaction(lambda c: c.execute(insert(table), sent))
    # Other tests left deleted rows, which change the costs of a plan.
    _analyze(store, "VACUUM FULL ANALYZE")


def test_the_last_start_comes_from_an_index(store: SQLStore) -> None:
    """A start reads no signing records, however many there are."""
    store.append(
        [
            Record.of({"event": "digest-sign-requested", "n": n}, now())
            for n in range(2000)
        ]
    )
    _analyze(store, "ANALYZE")
    plan = query_plan(store, audit._CONFIGURATION, {"process": "x", "before": "av"})

    assert "ix_audit_records_configuration" in plan
    assert "Seq Scan" not in plan


def test_open_refunds_are_counted_without_the_final_transactions(
    postgresql_url: str,
) -> None:
    """Also when so many are open that reading a whole table would be cheaper."""
    with closing(open_ledger(postgresql_url)) as store:
        final = [adopted(queued(), n) for n in range(2000)]
        filled(store, [as_if(each, status=Status.CONFIRMED) for each in final])
        filled(store, [queued() for _ in range(500)])
        _analyze(store)
        plan = query_plan(store, refund_reports.OPEN_REFUNDS, {})

    assert "ix_transactions_movable" in plan
    assert "Seq Scan on transactions" not in plan


def _plan_of(store: SQLStore, statement: RowStatement, values: Values) -> str:
    def explain(connection: Connection) -> str:
        prepared = _Prepared(statement, connection.dialect)
        is_sqlite = connection.dialect.name == "sqlite"
        how = "EXPLAIN QUERY PLAN" if is_sqlite else "EXPLAIN"
        given = prepared.parameters([{**dict.fromkeys(prepared._names), **values}])
        rows = connection.exec_driver_sql(f"{how} {prepared.text}", given)
        return "\n".join(str(row) for row in rows)

    return store._database.run(explain)


def test_a_history_is_written_from_the_places_in_transactions(
    filled_store: SQLStore,
) -> None:
    """However many refunds are open."""
    values = {
        "transactions_status": TransactionStatus.MINED,
        "transactions_updated_at": now(),
        "transactions_version": 1,
        "transactions_chain_id": 1,
        "transactions_sender": WALLET,
        "transactions_nonce": 0,
        "payments": 1,
    }

    plan = _plan_of(filled_store, INSERT_MOVES, values)

    # SQLite names the index of a constraint after the table.
    assert "uq_refunds_position" in plan or "sqlite_autoindex_refunds_4" in plan


ROW_UPDATES = {
    "reserve": _RESERVE,
    "record": RECORD,
    "save transaction": SAVE_TRANSACTION,
    "place": PLACE,
    "save": SAVE,
    "release": RELEASE,
    "keep": KEEP,
}
SEALING = {"seal": audit._SEAL, "sequence": events._SEQUENCE}


# The final batches of a refund that has none are never read.
_TABLES = "refunds", "transactions  (", "audit_records", "events"
_ALL_ROWS = (*(f"Seq Scan on {table}" for table in _TABLES), "SCAN ")


@pytest.mark.parametrize("statement", ROW_UPDATES.values(), ids=ROW_UPDATES)
def test_rows_are_updated_by_their_keys(
    filled_store: SQLStore, statement: RowStatement
) -> None:
    """PostgreSQL would read all of 1,500 for the 100 that it expects from a list."""
    plan = _plan_of(filled_store, statement, {})

    assert [each for each in _ALL_ROWS if each in plan] == [], plan


@pytest.mark.parametrize(
    "statement",
    [*ROW_UPDATES.values(), *SEALING.values()],
    ids=[*ROW_UPDATES, *SEALING],
)
def test_rows_of_a_new_ledger_are_updated_by_their_keys(
    empty_postgresql_url: str, statement: RowStatement
) -> None:
    """A connection keeps the plan that it made while the tables were empty."""
    with closing(open_ledger(empty_postgresql_url)) as store:
        store.migrate()
        plan = _plan_of(store, statement, {})

    assert [each for each in _ALL_ROWS if each in plan] == [], plan
