"""Tables, plots and the file of results."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from bench.documents import RESULTS, insert
from bench.harness import Figure, Goal, summarise
from bench.plots import draw
from bench.refund_rates import percentile
from bench.results import FILE, merge, read
from bench.scenarios import NAMES, load_scenario
from bench.table import markdown, missed_goals, number, terminal


FIGURES = [
    Figure("bare", "/s"),
    Figure("ours", "/s", (Goal("bare", at_least=0.85), Goal(1000.0))),
]


def _run(name: str = "softhsm", ours: float = 1500.0) -> dict[str, Any]:
    rounds = [{"bare": 3000.0, "ours": ours}, {"bare": 2000.0, "ours": ours}]
    scenario = {
        "name": name,
        "title": "Signatures",
        "rounds": 2,
        "seconds": 0.5,
        "figures": summarise(FIGURES, rounds),
        "notes": ["A note."],
        "at": "2026-11-26T08:00:00+00:00",
        "commit": "0123456789ab",
        "load": "0.4",
    }
    return {
        "machine": {"cores": "2"},
        "scenarios": [scenario],
    }


def test_the_markdown_table() -> None:
    assert markdown(_run(), {"softhsm": ["performance/a.svg"]}) == (
        "cores 2.\n\n"
        "### Signatures\n\n"
        "2026-11-26, commit 0123456789ab, load 0.4.\n\n"
        "| work | median | ratio | to | goal |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| ours | 1,500 /s | 0.625 | bare"
        " | at least 0.85: missed |\n\n"
        "A note.\n\n"
        "![Plot](performance/a.svg)\n"
    )


def test_a_scenario_without_goals_shows_its_figures_unless_they_are_many() -> None:
    run, many = _run(), _run()
    names = [f"step {number}" for number in range(25)]
    for document, chosen in ((run, ["bare"]), (many, names)):
        figures = [Figure(name, "/s") for name in chosen]
        rounds = [dict.fromkeys(chosen, 2.0)]
        document["scenarios"][0]["figures"] = summarise(figures, rounds)

    assert "| bare | 2.00 /s |  |  |  |\n" in markdown(run, {})
    assert "|" not in markdown(many, {})


def test_of_many_goals_the_missed_ones_are_shown() -> None:
    names = [f"row {number}" for number in range(25)]
    figures = [Figure(name, "/s", (Goal(1.0, at_least=2.0),)) for name in names]
    run = _run()
    rounds = [dict.fromkeys(names, 3.0) | {"row 7": 1.0}]
    run["scenarios"][0]["figures"] = summarise(figures, rounds)
    text = markdown(run, {})

    assert "24 of 25 goals are met." in text
    assert [line for line in text.splitlines() if line.startswith("| row")] == [
        "| row 7 | 1.00 /s | 1.00 | 1 | at least 2: missed |"
    ]


def test_the_table_of_the_terminal_has_columns() -> None:
    lines = terminal(_run()).splitlines()

    assert lines[:3] == ["cores: 2", "", "Signatures"]
    header, bare, ours = lines[3:6]
    assert header.index("ratio") == ours.index("0.625")
    assert bare == "  bare  2,500 /s  2,000 ... 3,000"


def test_a_failed_scenario_is_shown() -> None:
    run = _run() | {"scenarios": [{"name": "kms", "error": "it failed"}]}

    assert "### kms\n\nNot measured: it failed." in markdown(run, {})
    assert terminal(run).endswith("kms\n  not measured: it failed")


@pytest.mark.parametrize(("ours", "missed"), [(1500.0, 1), (2500.0, 0)])
def test_missed_goals_are_counted(ours: float, missed: int) -> None:
    assert missed_goals(_run(ours=ours)) == missed


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.00987, "0.010"),
        (0.1234, "0.123"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (123.4, "123"),
        (12345.6, "12,346"),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_the_page_keeps_what_is_around_the_results() -> None:
    page = (
        "before\n<!-- results: written by `make bench` -->\nold\n"
        "<!-- end of the results -->\nafter\n"
    )

    assert insert(page, RESULTS, "new\n") == page.replace("old\n", "\nnew\n\n")
    once = insert(page, RESULTS, "old\n")
    assert insert(once, RESULTS, "new\n") == insert(page, RESULTS, "new\n")


def test_a_page_without_the_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="the page needs the lines"):
        insert("a page", RESULTS, "new")


def test_a_run_replaces_only_its_own_scenarios() -> None:
    """A scenario that failed keeps its earlier figures, and a new one is added."""
    earlier = merge(_run("kms"), _run("softhsm"))
    failed = _run() | {"scenarios": [{"name": "kms", "error": "it failed"}]}

    merged = merge(merge(earlier, _run("softhsm", ours=1.0)), failed)

    assert [each["name"] for each in merged["scenarios"]] == ["softhsm", "kms"]
    softhsm, kms = merged["scenarios"]
    assert "error" not in kms
    assert softhsm["figures"][1]["values"]["median"] == 1.0


def test_the_plots_are_svg(tmp_path: Path) -> None:
    drawn = draw(_run(), tmp_path)

    assert drawn == {"softhsm": ["softhsm-rates.svg"]}
    text = (tmp_path / "softhsm-rates.svg").read_text(encoding="utf-8")
    assert ET.fromstring(text).tag.endswith("svg")
    assert "<script" not in text
    assert "http://" not in text.replace("http://www.w3.org/", "")


def test_percentiles_are_the_nearest_rank() -> None:
    values = [float(n) for n in range(100, 0, -1)]

    assert [percentile(values, p) for p in (1, 50, 99, 100)] == [1, 50, 99, 100]
    assert percentile([7.0], 50) == 7.0


def test_every_scenario_has_its_name() -> None:
    """The name on the command line is the one in the results."""
    assert {name: load_scenario(name).name for name in NAMES} == {n: n for n in NAMES}


def test_the_stored_results_are_of_known_scenarios() -> None:
    stored = read(FILE)

    assert stored is not None
    assert {each["name"] for each in stored["scenarios"]} <= set(NAMES)
    assert all(each["figures"] for each in stored["scenarios"])
