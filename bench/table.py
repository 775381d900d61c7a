"""Results as tables, for a terminal and for the documentation."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.results import Document


_HEADER = ("work", "median", "from ... to", "ratio", "to", "goal")
_PAGE_HEADER = ("work", "median", "ratio", "to", "goal")
_MANY = 20


def markdown(run: Document, plots: Mapping[str, Sequence[str]]) -> str:
    """
    Return the results of *run*: the machine, and a table and *plots* per scenario.

    The table has the figures with a goal; of many goals, those that are missed.  A
    scenario without goals has all of its figures.  *plots* has the paths of each
    scenario's plots, from the page.
    """
    parts = [_machine(run)]
    for scenario in run["scenarios"]:
        title = f"### {scenario.get('title', scenario['name'])}"
        if "error" in scenario:
            parts.append(f"{title}\n\nNot measured: {scenario['error']}.")
            continue
        images = [f"![Plot]({path})" for path in plots.get(scenario["name"], ())]
        parts += [
            title,
            f"{moment(scenario)}.",
            *_chosen(scenario),
            *scenario["notes"],
            *images,
        ]
    return "\n\n".join(parts) + "\n"


def moment(scenario: Document) -> str:
    """Return when and on which commit *scenario* ran, and under which other load."""
    at, commit, load = (scenario[each] for each in ("at", "commit", "load"))
    return f"{at[:10]}, commit {commit}, load {load}"


def of_page(run: Document) -> Document:
    """Return *run* without the scenarios that have many figures and no goal."""
    shown = [
        scenario
        for scenario in run["scenarios"]
        if "error" in scenario or any(_chosen(scenario))
    ]
    return {**run, "scenarios": shown}


def _chosen(scenario: Document) -> Iterator[str]:
    """Yield the part of a scenario's table that the page has, if any."""
    rows = [
        (name, middle, ratio.partition(" ")[0], *rest)
        for name, middle, _, ratio, *rest in _rows(scenario)
    ]
    named = [(_name(rows, place), *row[1:]) for place, row in enumerate(rows)]
    aims = [row for row in named if row[-1]]
    if len(aims) > _MANY:
        missed = [row for row in aims if row[-1].endswith("missed")]
        yield f"{len(aims) - len(missed)} of {len(aims)} goals are met."
        aims = missed
    elif not aims and len(named) <= _MANY:
        aims = named
    if aims:
        work, median, ratio, to, goal = zip(_PAGE_HEADER, *aims, strict=True)
        baselines = {baseline for baseline in to[1:] if baseline}
        columns = [work, median, ratio, to, goal]
        if len(baselines) == 1:
            columns[2:4] = [(f"ratio to {baselines.pop()}", *ratio[1:])]
        shown = [column for column in columns if any(column[1:])]
        header, *rest = zip(*shown, strict=True)
        lines = [header, len(header) * ("---",), *rest]
        yield "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _name(rows: Sequence[Sequence[str]], place: int) -> str:
    """Return the work of the row at *place*, which is that of an earlier row."""
    return next(row[0] for row in rows[place::-1] if row[0])


def plain_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Return *rows*, which have the same columns, in Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [
        [
            f"{value:,}" if isinstance(value, int) else str(value)
            for value in row.values()
        ]
        for row in rows
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def terminal(run: Document) -> str:
    """Return the same in columns."""
    lines = [f"{name}: {value}" for name, value in run["machine"].items()]
    for scenario in run["scenarios"]:
        lines += ["", scenario.get("title", scenario["name"])]
        if "error" in scenario:
            lines.append(f"  not measured: {scenario['error']}")
            continue
        rows = [_HEADER, *_rows(scenario)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += [
            "  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows
        ]
        lines += [f"  {note}" for note in scenario["notes"]]
    return "\n".join(lines)


def missed_goals(run: Document) -> int:
    """Return how many goals the medians miss."""
    return sum(
        ratio["is_met"] is False
        for scenario in run["scenarios"]
        for figure in scenario.get("figures", [])
        for ratio in figure["ratios"]
    )


def _rows(scenario: Document) -> Iterator[tuple[str, ...]]:
    for figure in scenario["figures"]:
        values = figure["values"]
        middle = f"{number(values['median'])} {figure['unit']}".strip()
        span = f"{number(values['minimum'])} ... {number(values['maximum'])}"
        ratios: Sequence[Any] = figure["ratios"] or [None]
        for place, ratio in enumerate(ratios):
            first = (figure["name"], middle, span) if place == 0 else ("", "", "")
            yield (*first, *_ratio(ratio))


def _ratio(ratio: Any) -> tuple[str, str, str]:
    if ratio is None:
        return ("", "", "")
    spread, baseline = ratio["spread"], ratio["baseline"]
    low, high = number(spread["minimum"]), number(spread["maximum"])
    shown = f"{number(spread['median'])} ({low} ... {high})"
    goal = ""
    if ratio["is_met"] is not None:
        bound = (
            f"at least {ratio['at_least']:g}"
            if ratio["at_least"] is not None
            else f"at most {ratio['at_most']:g}"
        )
        goal = f"{bound}: {'met' if ratio['is_met'] else 'missed'}"
    return shown, baseline if isinstance(baseline, str) else f"{baseline:g}", goal


def number(value: float) -> str:
    """Return *value* with three digits, at most three of them after the point."""
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:,.{min(3, max(0, digits))}f}"


def _machine(run: Document) -> str:
    return ", ".join(f"{name} {value}" for name, value in run["machine"].items()) + "."
