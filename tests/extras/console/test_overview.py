"""The overview, the plots, the wallets and the webhooks; and what pages read."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from api.container import Container
from api.extras.console import refunds
from api.extras.console.overview import read_guard
from api.extras.console.refunds import ConsoleTables
from api.extras.console.rendering import (
    GUIDES,
    Explorers,
    draw_qr_code,
    format_number,
    format_seconds,
    runbook_of,
)
from api.extras.console.trends import (
    DAY,
    WEEK,
    ChartPeriod,
    Plot,
    Series,
    _summarize,
    find_blockers,
    plot_broadcasts,
    plot_checkpoints,
    plot_refunds,
    quantile,
    recent_p99,
    round_up,
)
from api.extras.console.wallets import (
    MeasuredBalance,
    Measurements,
    ShownWallet,
    read_measurements,
    read_wallets,
)
from api.views.codes import find_code
from backends.sql import SQLStore
from signer.config.networks import Network
from signer.config.settings import Settings
from signer.model.key import KeyState
from signer.model.refund import Status, new_refund_id
from signer.model.wallet import Pause
from signer.model.worker_row import WorkerRow
from signer.refunds.wallet_reconciliation import MOST_OPEN
from tests.api.browser import Browser
from tests.api.readings import measured
from tests.api.service import NETWORKS
from tests.api.support import SettableClock
from tests.extras.console.worlds import SHOP, World
from tests.fixtures.ledger import (
    OTHER_WALLET,
    WALLET,
    accepted,
    bound,
    broadcast,
    filled,
    forge,
    later,
    moved,
    now,
    opened,
    queued,
    reserved,
    save,
    unrecorded,
)
from tests.fixtures.scripted_chain import CHAIN_ID
from tests.support.keys import key_at, made_active
from tests.support.ledgers import query_plan
from tests.support.programs import ROOT


ADDRESS = "0x5FbDB2315678afecb367f032d93F642f64180aa3"

EXPLORER = "https://explorer.example/base"


def _network(**changes: object) -> Network:
    return Network.model_validate({**NETWORKS["local"].model_dump(), **changes})


def test_every_guide_exists() -> None:
    """``test_monitoring.py`` compares the runbooks of alerts."""
    for code, guide in GUIDES.items():
        assert find_code(code) is not None
        path, _, anchor = guide.partition("#")
        heading = rf"^#+ {anchor.replace('-', ' ')}$"
        text = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(heading, text, re.MULTILINE | re.IGNORECASE), code
        assert runbook_of(code, "https://docs.example") == guide


def test_a_code_is_explained(browser: Browser) -> None:
    page = browser.get("/console/codes/signing-stopped").text

    assert "docs/how-to/alarms.md#signing-stopped" in page
    assert "<code>hotwallet resume</code>" in page
    for unknown in ("invented", "%3Cscript%3E"):
        assert browser.get(f"/console/codes/{unknown}").status_code == 404
    assert runbook_of("invented", None) is None


def test_notices_lead_to_their_runbooks(browser: Browser) -> None:
    page = browser.get("/console").text

    assert "No worker runs" in page
    assert 'href="/console/codes/worker-stopped"' in page


def test_the_guard_says_what_production_would_refuse(
    container: Container, browser: Browser
) -> None:
    environ = {"APP_ENV": "development", "HOTWALLET_HOME": "unused"}
    container.settings = Settings.from_env(environ)
    state = read_guard(container)
    codes = {refusal.code for refusal in state.in_production}

    assert {"kms-not-configured", "mac-key-missing", "tenants-missing"} <= codes
    assert any("NOT SAFE FOR PRODUCTION" in each for each in state.warnings)
    page = browser.get("/console").text
    assert "Production would refuse" in page
    assert "kms-not-configured" in page


def test_the_address_is_a_qr_code(browser: Browser, sqlite_store: SQLStore) -> None:
    sqlite_store.enrol(key_at(ADDRESS))
    made_active(sqlite_store, key_at(ADDRESS))
    page = browser.get("/console").text

    assert str(draw_qr_code(ADDRESS)) in page
    assert f"<title>QR code of {ADDRESS}</title>" in page
    assert "<script>" not in draw_qr_code("</title><script>")


def test_links_lead_to_the_explorer_only() -> None:
    """What another program wrote into the database does not get into a link."""
    explorers = Explorers.of({"local": _network(explorer=f"{EXPLORER}/")})

    assert explorers.account(31337, ADDRESS) == f"{EXPLORER}/address/{ADDRESS}"
    assert explorers.token(31337, ADDRESS) == f"{EXPLORER}/token/{ADDRESS}"
    assert explorers.transaction(31337, "0x12") == f"{EXPLORER}/tx/0x12"
    assert explorers.transaction(1, "0x12") is None
    for hostile in ("0x12/../evil", "javascript:alert(1)", "0x", "0x12\n", "0x1\uff12"):
        assert explorers.transaction(31337, hostile) is None


def test_a_refund_links_to_the_explorer(
    container: Container, browser: Browser, sqlite_store: SQLStore
) -> None:
    container.networks = {"local": _network(explorer=EXPLORER)}
    refund = accepted(sqlite_store)
    page = browser.get(f"/console/refunds/{refund.id}").text

    assert (
        f'<a class="external" href="{EXPLORER}/address/{refund.recipient}"'
        ' rel="noreferrer">' in page
    )


@pytest.mark.parametrize(
    ("refunds", "hours", "percent"),
    [(None, None, 100), (250, None, 100), (50, 100, 20), (500, 6, 10), (0, 0, 0)],
)
def test_the_runway(refunds: int | None, hours: int | None, percent: float) -> None:
    """The shorter of the two; a full bar is five times the bound."""
    asset = MeasuredBalance("local", "TUSD", 10.0, refunds, hours)

    assert asset.runway(_network()) == percent


@pytest.mark.parametrize(
    ("balance", "refunds", "state"),
    [
        (0.0, None, "empty"),
        (0.0, 0, "empty"),
        (10.0, None, "unknown"),
        (None, None, "unknown"),
        (10.0, 1, "low"),
        (10.0, 1000, "enough"),
    ],
)
def test_only_what_lasts_is_enough(
    balance: float | None, refunds: int | None, state: str
) -> None:
    """Before the first refund, a balance of zero was "enough"."""
    assert MeasuredBalance("local", "TUSD", balance, refunds).state(_network()) == state


def test_balances_have_a_runway(
    container: Container, browser: Browser, clock: SettableClock
) -> None:
    metrics = (
        'hotwallet_wallet_balance{network="local",asset="TUSD"} 1250.5\n'
        'hotwallet_wallet_refunds_left{network="local",asset="TUSD"} 25\n'
    )
    container.store.record_pass(
        WorkerRow("w1", clock.now, clock.now, measured(metrics))
    )
    for path in ("/console", "/console/trends", "/console/wallets"):
        page = browser.get(path).text
        assert "1,250.5" in page
        assert '<rect class="fill-bad" width="10.0"' in page


# The plots: what they count, and that they are a table as well.


def _plot(*values: Sequence[float | None], is_stacked: bool = True) -> Plot:
    return Plot(
        id="test",
        title="A plot",
        summary="What it shows.",
        columns=["first", "second"],
        marks=["then", "now"],
        series=[Series(f"s{n}", f"fill-{n}", each) for n, each in enumerate(values)],
        is_stacked=is_stacked,
        unit=" s",
    )


def test_parts_add_up() -> None:
    plot = _plot([1, 2], [3, None])

    assert plot.top == 5
    assert [(bar.kind, bar.y, bar.height) for bar in plot.bars] == [
        ("fill-0", 80, 20),
        ("fill-1", 20, 60),
        ("fill-0", 60, 40),
    ]
    assert plot.bars[1].title == "first: 3 s s1"


def test_values_are_one_before_the_other() -> None:
    plot = _plot([10, None], [4, None], is_stacked=False)

    assert plot.top == 10
    assert [(bar.y, bar.height) for bar in plot.bars] == [(0, 100), (60, 40)]


def test_a_small_value_is_visible() -> None:
    plot = _plot([100_000, 1], [0, 0])

    assert plot.bars[1].height == 1
    assert not plot.is_empty
    assert _plot([0, None]).is_empty
    assert _plot([0, None]).bars == []


@pytest.mark.parametrize(
    ("value", "top"), [(0, 1), (0.4, 0.5), (1, 1), (1.1, 2), (37, 50), (99, 100)]
)
def test_axes_end_at_round_numbers(value: float, top: float) -> None:
    assert round_up(value) == pytest.approx(top)


@pytest.mark.parametrize("period", [DAY, WEEK])
def test_periods_end_with_the_current_part(period: ChartPeriod) -> None:
    moment = datetime(2026, 11, 26, 21, 50, tzinfo=UTC)
    spans = period.spans(moment)

    assert len(spans) == len(period.columns(moment)) == period.parts
    assert spans[-1][0] <= moment < spans[-1][1]
    assert all(end - begin == period.step for begin, end in spans)
    assert period.marks(moment)[-1] == "now"


def test_refunds_are_counted_by_what_became_of_them(store: SQLStore) -> None:
    moment = now()
    earlier = new_refund_id(moment - timedelta(hours=3))
    accepted(store)
    filled(store, [queued(id=earlier, status=Status.REFUSED, version=1)])
    plot = plot_refunds(store, DAY, moment)
    series = {each.name: each.values for each in plot.series}

    assert plot.summary == "2 accepted: 1 open, 1 failed or refused."
    assert series["open"][-1] == 1
    assert series["failed or refused"][-4] == 1
    assert sum(sum(filter(None, each)) for each in series.values()) == 2


def test_long_bars_say_so(store: SQLStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.extras.console.trends.MOST_REFUNDS", 2)
    monkeypatch.setattr("api.extras.console.trends.MOST_TIMES", 2)
    for _ in range(3):
        broadcast(store)
    moment = now()

    assert "counts 2 refunds at most" in plot_refunds(store, DAY, moment).summary
    assert "its newest 2 refunds" in plot_broadcasts(store, DAY, moment).summary


def test_times_to_the_broadcast(
    store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = now().replace(minute=30)  # All of them are in the bar of one hour.
    monkeypatch.setattr("tests.fixtures.ledger.now", lambda: moment)
    assert plot_broadcasts(store, DAY, moment).summary == "None were broadcast."
    assert recent_p99(store, moment) is None
    for seconds in (2, 2, 30):
        broadcast(store, id=new_refund_id(moment - timedelta(seconds=seconds)))
    plot = plot_broadcasts(store, DAY, moment)

    (p99, median) = (each.values[-1] or 0 for each in plot.series)
    assert p99 == pytest.approx(30, abs=0.01)
    assert median == pytest.approx(2, abs=0.01)
    assert plot.summary == (
        f"Half within {format_seconds(median)}, 99 % within {format_seconds(p99)}."
    )
    assert recent_p99(store, moment) == p99


def test_an_empty_log_has_no_checkpoints(store: SQLStore) -> None:
    plot = plot_checkpoints(store, None)

    assert plot.is_empty
    assert plot.summary == "There is no checkpoint yet."
    assert _summarize([0.5]) == f"{format_seconds(0.5)} in the only checkpoint."
    assert _summarize([0.5, 2.0]) == (
        f"At most {format_seconds(2.0)} in the newest 2 checkpoints."
    )


def test_blockers_are_counted(store: SQLStore) -> None:
    for code in ("limit-reached", "limit-reached", "insufficient-funds"):
        refund = accepted(store)
        save(store, refund, refund.with_due_at(now(), blocked_by=code))
    accepted(store)

    assert [(each.code, each.number) for each in find_blockers(store)] == [
        ("limit-reached", 2),
        ("insufficient-funds", 1),
    ]


def test_quantiles() -> None:
    assert quantile([], 0.99) is None
    assert quantile([1, 2, 3], 0.5) == 2
    assert quantile(list(range(1, 101)), 0.99) == 99


def test_numbers_for_people() -> None:
    assert [format_seconds(each) for each in (None, 0.0123, 3.14, 120)] == [
        "-",
        "12 ms",
        "3.1 s",
        "2 min",
    ]
    assert [
        format_number(each) for each in (None, 1250.5, 12_345_678.9, 0.0000123, 0)
    ] == ["-", "1,250.5", "12,345,678.9", "0.0000123", "0"]


@pytest.mark.parametrize("span", ["day", "week", ""])
def test_the_page_has_every_plot_as_a_table(browser: Browser, span: str) -> None:
    page = browser.get(f"/console/trends?span={span}").text

    assert page.count("<figure") == 3
    assert "No open refund is delayed." in page


def test_a_plot_has_the_same_numbers_as_a_table(
    browser: Browser, sqlite_store: SQLStore, clock: SettableClock
) -> None:
    """Who does not see the bars reads the table."""
    accepted(sqlite_store, id=new_refund_id(clock.now))
    page = browser.get("/console/trends").text

    assert '<rect class="fill-info"' in page
    assert "<title>" in page
    assert '<td class="number">1</td>' in page


# The page of the wallets: nonces that are open, final or missing, and former keys.


def _shown(container: Container, **measured: Any) -> dict[str, ShownWallet]:
    found = read_wallets(container, container.store.keys(), Measurements(**measured))
    return {each.row.sender: each for each in found}


def _sent(store: SQLStore) -> Any:
    block = {"block_number": 1, "block_hash": "0x01"}
    return moved(store, broadcast(store), Status.MINED, **block)


def test_open_nonces_are_those_of_refunds_that_have_not_ended(
    container: Container, sqlite_store: SQLStore
) -> None:
    """All below the lowest of them are final."""
    sent = [_sent(sqlite_store) for _ in range(3)]
    moved(sqlite_store, sent[0], Status.CONFIRMED)
    moved(sqlite_store, sent[2], Status.CONFIRMED)
    one = _shown(container, chain_nonces={"local": 3.0})[WALLET]
    moved(sqlite_store, sent[1], Status.CONFIRMED)
    none = _shown(container)[WALLET]

    assert (one.row.next_nonce, one.chain_nonce) == (3, 3)
    assert (one.open, one.final_below, one.gaps) == (1, 1, ())
    assert (none.open, none.final_below, none.chain_nonce) == (0, 3, None)
    assert one.is_active


def test_missing_nonces_are_found(
    container: Container, sqlite_store: SQLStore, browser: Browser
) -> None:
    """Between those that are known; the chain has used none that is missing."""
    opened(sqlite_store, first=3)
    reserved(sqlite_store, accepted(sqlite_store), counted=3)
    row = sqlite_store.wallet(CHAIN_ID, WALLET)
    assert row is not None
    sqlite_store.add_unrecorded(row, [unrecorded(nonce=6)])
    shown = [
        _shown(container, **measured)[WALLET]
        for measured in (
            {},
            {"chain_nonces": {"local": 3.0}},
            {"chain_nonces": {"local": 7.0}},
            {"chain_nonces": {"local": float("nan")}},
            {"chain_nonces": {"local": 1e300}},
        )
    ]
    page = browser.get("/console/wallets").text

    assert [list(each.gaps) for each in shown] == [[4, 5], [4, 5], [], [4, 5], []]
    assert f"No refund has nonce 4, 5 of <code>{WALLET}</code> on local" in page
    assert "which this service did not make" in page


def test_a_long_queue_is_no_gap(
    container: Container, sqlite_store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page reads so many open refunds, and looks no further."""
    monkeypatch.setattr("signer.refunds.wallet_reconciliation.MOST_OPEN", 2)
    for _ in range(4):
        reserved(sqlite_store, accepted(sqlite_store))
    monkeypatch.setattr(sqlite_store, "unknown_nonces", None)
    shown = _shown(container, chain_nonces={"local": 0.0})[WALLET]

    assert (shown.open, shown.final_below, shown.gaps) == (2, 0, ())
    assert MOST_OPEN > 100


def test_wallets_of_former_keys_stay_in_the_list(
    container: Container, sqlite_store: SQLStore, browser: Browser
) -> None:
    """With the state of their key; only the active key's nonce is measured."""
    reserved(sqlite_store, accepted(sqlite_store))
    reserved(sqlite_store, accepted(sqlite_store), sender=OTHER_WALLET)
    shown = _shown(container, chain_nonces={"local": 1.0}, delegated=("local",))
    page = browser.get("/console/wallets").text

    former, active = shown[WALLET], shown[OTHER_WALLET]
    assert (former.key, active.key) == (KeyState.DRAINING, KeyState.ACTIVE)
    assert (former.chain_nonce, active.chain_nonce) == (None, 1)
    assert (former.is_delegated, active.is_delegated) == (False, True)
    assert 'class="badge key-draining">draining' in page
    assert 'class="badge warn">finishes' in page


def test_a_revoked_key_that_may_pay_from_a_vault_is_shown(
    container: Container, sqlite_store: SQLStore, browser: Browser, clock: SettableClock
) -> None:
    """Until a worker has seen that it cannot; unknown is not done."""
    made_active(sqlite_store, key_at(WALLET))
    made_active(sqlite_store, key_at(OTHER_WALLET), block=True)
    vault = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
    local = container.networks["local"].model_copy(update={"vault": vault})
    container.networks = {"local": local, "plain": container.networks["local"]}
    step = f"hotwallet vault propose --network local --remove-operator {WALLET}"
    shown = [step in browser.get("/console/keys").text]
    for count in (1, 0):
        text = f'hotwallet_vault_revoked_operators{{network="local"}} {count}\n'
        row = WorkerRow(f"w{count}", clock.now, clock.now, measured(text))
        sqlite_store.record_pass(row)
        clock.advance(seconds=1)
        shown.append(step in browser.get("/console/keys").text)

    assert shown == [True, True, False]
    assert "network plain" not in browser.get("/console/keys").text


def test_a_pause_and_code_of_others_are_shown(
    sqlite_store: SQLStore, browser: Browser, clock: SettableClock
) -> None:
    """T7: the operator sees a delegation where the wallets are."""
    reserved(sqlite_store, accepted(sqlite_store))
    row = sqlite_store.wallet(CHAIN_ID, WALLET)
    assert row is not None
    sqlite_store.pause(row, Pause.CHAIN_AHEAD, clock.now)
    metrics = 'hotwallet_wallet_delegated{network="local"} 1\n'
    sqlite_store.record_pass(WorkerRow("a", clock.now, clock.now, measured(metrics)))
    page = browser.get("/console/wallets").text

    found = read_measurements(sqlite_store.workers(), clock.now)
    assert found.delegated == ["local"]
    assert "paused: chain-ahead" in page
    assert 'href="/console/codes/wallet-delegated">has code of others' in page


# What the console reads of the ledger, and the indexes that it uses.


def test_results_of_a_period(store: SQLStore) -> None:
    """By the time of acceptance; sweeps and fillers are no refunds."""
    began = now()
    hour = timedelta(hours=1)
    for at in (began - hour, began, began + timedelta(seconds=1)):
        accepted(store, id=new_refund_id(at))
    moved(store, accepted(store, id=new_refund_id(began)), Status.CANCELLED)
    accepted(store, id=new_refund_id(began + hour))
    filled(store, [queued(id=new_refund_id(began), **bound())])

    read = store.tables(ConsoleTables)
    assert dict(read.results_between(began, began + hour, 10)) == {
        Status.QUEUED: 2,
        Status.CANCELLED: 1,
    }
    assert sum(read.results_between(began, began + hour, 2).values()) == 2
    assert dict(read.results_between(began + 2 * hour, began + 3 * hour, 9)) == {}


def test_times_to_the_first_broadcast(store: SQLStore) -> None:
    """A refund that was never broadcast, or before the period, has none."""
    began = now()
    minute = timedelta(minutes=1)
    for seconds in (30, 1, 200):
        broadcast(store, id=new_refund_id(began - timedelta(seconds=seconds)))
    accepted(store, id=new_refund_id(began))

    read = store.tables(ConsoleTables)
    fast, slow = read.broadcast_seconds(began - minute, began + minute, 10)
    assert 1 <= fast < 30 <= slow < 60
    assert len(read.broadcast_seconds(began - minute, began + minute, 1)) == 1


def test_a_reference_is_found_for_each_tenant(store: SQLStore) -> None:
    found = [accepted(store, tenant=name, reference="order").id for name in "acb"]
    accepted(store, tenant="b", reference="other")

    read = store.tables(ConsoleTables)
    listed = [each.id for each in read.find_by_reference("order", 10)]
    assert listed == sorted(found, reverse=True)
    assert len(read.find_by_reference("order", 2)) == 2
    assert read.find_by_reference("order\0", 10) == ()


def test_a_reference_is_looked_up_once_per_tenant(filled_store: SQLStore) -> None:
    plan = query_plan(
        filled_store, refunds.BY_REFERENCE, {"name": "order", "at_most": 10}
    )

    assert "Seq Scan on refunds" not in plan
    assert "SCAN refunds" not in plan.replace("SCAN refunds USING COVERING", "")


def test_results_come_from_the_primary_key(filled_store: SQLStore) -> None:
    """A chart costs the same in a ledger of any size."""
    given = {"first": queued().id, "at_most": 20}
    given["last"] = queued(id=new_refund_id(later(60))).id
    plan = query_plan(filled_store, refunds.RESULTS, given)

    # SQLite names the index of a primary key after the table.
    assert "pk_refunds" in plan or "sqlite_autoindex_refunds_1" in plan
    assert "Seq Scan" not in plan
    assert "SCAN refunds\n" not in plan


def test_broadcasts_come_from_the_primary_key(sqlite_store: SQLStore) -> None:
    given = {"first": "rf_0", "last": "rf_1", "at_most": 20}
    plan = query_plan(sqlite_store, refunds.FIRST_BROADCASTS, given)

    assert "SEARCH refund_moves" in plan
    assert "TEMP B-TREE" not in plan


# The page of webhooks: what waits, which event, and how it is sent again.


def _page(world: World) -> str:
    browser = Browser(world.client)
    assert browser.log_in().status_code == 303
    return browser.get("/console/webhooks").text


def test_an_event_is_shown_with_its_type(sqlite_store: SQLStore) -> None:
    """In both lists, with the problem and the way to send it again."""
    world = World(sqlite_store)
    event_id = world.given_up(problem="status-503")
    page = _page(world)
    _, given_up, newest = page.split("<h2")

    for part in (given_up, newest):
        assert "refund.accepted" in part
        assert event_id in part
        assert "status-503" in part
    assert f'href="/console/changes/replay-event?event_id={event_id}"' in newest
    assert f"Send all of {SHOP} again" in given_up


def test_an_event_of_another_program_is_marked(sqlite_store: SQLStore) -> None:
    """Its type is not shown: the event is not authentic."""
    world = World(sqlite_store)
    world.given_up()
    forge(
        sqlite_store,
        "INSERT INTO webhook_deliveries SELECT 'evt_forged', tenant, refund_id, 9,"
        " 'pending', 0, due_at, NULL, updated_at, 0 FROM webhook_deliveries",
    )
    page = _page(world)

    assert page.count("not authentic") == 1
    assert "evt_forged" in page
