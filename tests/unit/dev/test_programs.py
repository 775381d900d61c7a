"""What the tests need of a machine is fetched, or named in one line."""

import os
from pathlib import Path

import pytest

from dev import programs
from tests.support.programs import program


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without apt, whose only programs are two compilers and a browser."""
    for name in ("cc", "chromium", "go"):
        program(tmp_path / "bin" / name, "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(programs, "FOLDER", tmp_path / "fetched")
    return tmp_path


@pytest.mark.parametrize("is_ci", [True, False])
def test_what_is_missing_is_named_in_one_line(
    machine: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_ci: bool,
) -> None:
    """With the command to install it; in CI it is an error."""
    monkeypatch.delenv("CI", raising=False)
    if is_ci:
        monkeypatch.setenv("CI", "true")

    status = programs.main()

    fetching, line = capsys.readouterr().err.splitlines()
    assert "cc" not in fetching.split()
    assert "spin, ssh-keygen, systemd-analyze, namespaces" in line
    assert "sudo apt-get install curl jq kubernetes-client" in line
    assert ("skipped" in line) is not is_ci
    assert status == is_ci


def test_only_what_is_named_is_fetched(
    machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``make model`` needs no browser."""
    programs.main(["spin", "cc"])

    fetching, line = capsys.readouterr().err.splitlines()
    assert fetching == "Fetching spin ..."
    assert line.startswith("Missing here: spin; ")


def test_a_fetched_program_is_found_after_the_systems(machine: Path) -> None:
    fetched = program(machine / "fetched" / "spin", "exit 0")
    assert programs.missing(["cc", "spin"]) == ["spin"]

    for _ in range(2):
        programs.use_fetched()

    assert programs.missing(["cc", "spin"]) == []
    assert os.environ["PATH"] == f"{machine / 'bin'}:{fetched.parent}"
