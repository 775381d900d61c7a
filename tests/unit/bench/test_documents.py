"""Tables, plots and the file of results."""

from typing import Any

import pytest

from bench.documents import RESULTS, insert
from bench.harness import Figure, Goal, summarise
from bench.results import FILE, merge, read
from bench.scenarios import NAMES, load_scenario
from bench.table import markdown, missed_goals, of_page


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
    assert [missed_goals(_run(ours=ours)) for ours in (1500.0, 2500.0)] == [1, 0]

    assert markdown(_run(), {"softhsm": ["performance/a.svg"]}) == (
        "cores 2.\n\n"
        "### Signatures\n\n"
        "2026-11-26, commit 0123456789ab, load 0.4.\n\n"
        "| work | median | ratio to bare | goal |\n"
        "| --- | --- | --- | --- |\n"
        "| ours | 1,500 /s | 0.625 | at least 0.85: missed |\n\n"
        "A note.\n\n"
        "![Plot](performance/a.svg)\n"
    )


def test_many_figures_without_a_goal_are_not_on_the_page() -> None:
    """Their scenario stays in the file of results."""
    run = _run()
    bare = run["scenarios"][0]["figures"][0]
    many = {**run["scenarios"][0], "name": "sweep", "figures": 21 * [bare]}

    shown = of_page({**run, "scenarios": [*run["scenarios"], many]})

    assert shown == run


def test_the_page_keeps_what_is_around_the_results() -> None:
    page = (
        "before\n<!-- results: written by `make bench` -->\nold\n"
        "<!-- end of the results -->\nafter\n"
    )

    assert insert(page, RESULTS, "new\n") == page.replace("old\n", "\nnew\n\n")
    with pytest.raises(ValueError, match="the page needs the lines"):
        insert("a page", RESULTS, "new")
    once = insert(page, RESULTS, "old\n")

    assert insert(once, RESULTS, "new\n") == insert(page, RESULTS, "new\n")


def test_a_run_replaces_only_its_own_scenarios() -> None:
    """A scenario that failed keeps its earlier figures, and a new one is added."""
    earlier = merge(_run("kms"), _run("softhsm"))
    failed = _run() | {"scenarios": [{"name": "kms", "error": "it failed"}]}

    merged = merge(merge(earlier, _run("softhsm", ours=1.0)), failed)

    assert [each["name"] for each in merged["scenarios"]] == ["softhsm", "kms"]
    softhsm, kms = merged["scenarios"]
    assert "error" not in kms
    assert softhsm["figures"][1]["values"]["median"] == 1.0


def test_every_scenario_has_its_name() -> None:
    """The name on the command line is the one in the results."""
    assert {name: load_scenario(name).name for name in NAMES} == {n: n for n in NAMES}


def test_the_stored_results_are_of_known_scenarios() -> None:
    stored = read(FILE)

    assert stored is not None
    assert {each["name"] for each in stored["scenarios"]} <= set(NAMES)
    assert all(each["figures"] for each in stored["scenarios"])
