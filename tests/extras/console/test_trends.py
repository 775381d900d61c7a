"""The plots: what they count, and that they are a table as well."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from api.extras.console.rendering import format_number, format_seconds
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
from backends.sql import SQLStore
from signer.model.refund import Status, new_refund_id
from tests.api.browser import Browser
from tests.api.support import SettableClock
from tests.fixtures.ledger import accepted, broadcast, filled, now, queued, save


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
