"""The ten runs of `make test-ten`."""

from pathlib import Path

import pytest

from dev.repeated_tests import Result, plan


def test_the_runs_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, seeds and load."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)

    runs = plan(10)

    assert len({run.seed for run in runs}) == 10
    assert [run.busy for run in runs].count(2) == 4
    assert {run.busy for run in runs} == {0, 1, 2}


def test_a_run_lists_what_failed(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        "<testsuites><testsuite>"
        '<testcase classname="tests.a" name="test_b"><error/></testcase>'
        '<testcase classname="tests.a" name="test_c"/>'
        "</testsuite></testsuites>"
    )

    assert Result.read(report, 1, status=1) == Result(1, 2, ["tests.a::test_b"])


def test_a_run_that_ends_early_has_failed(tmp_path: Path) -> None:
    """It wrote no report."""
    (failed,) = Result.read(tmp_path / "report.xml", 1, status=2).failed

    assert "status 2" in failed
