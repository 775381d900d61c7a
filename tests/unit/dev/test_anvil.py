"""Finding and installing anvil."""

import json
from pathlib import Path

import pytest

from dev.anvil import ROOT, find_anvil, obtain_anvil
from tests.support.programs import program


def test_anvil_is_found_in_three_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """$ANVIL, npm's folder and the PATH, in this order; one that fails is skipped."""
    package = "node_modules/@foundry-rs/anvil-some-os/bin/anvil"
    chosen = program(tmp_path / "chosen", "exit 0")
    installed = program(tmp_path / package, "exit 0")
    on_path = program(tmp_path / "bin" / "anvil", "exit 0")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    monkeypatch.setenv("ANVIL", str(chosen))

    assert find_anvil(tmp_path) == chosen

    program(chosen, "exit 1")

    assert find_anvil(tmp_path) == installed

    installed.write_bytes(b"another machine's binary")

    assert find_anvil(tmp_path) == on_path

    on_path.unlink()

    assert find_anvil(tmp_path) is None


def test_without_npm_there_is_no_anvil(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The result is None, and stderr has the reason."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("ANVIL", raising=False)

    assert obtain_anvil(tmp_path) is None
    assert "npm is not installed" in capsys.readouterr().err


@pytest.mark.parametrize("works", [True, False])
def test_npm_installs_anvil(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    works: bool,
) -> None:
    """A missing anvil is installed with ``npm ci``; a failure is reported."""
    package = program(tmp_path / "package" / "anvil", "exit 0").parent
    place = "node_modules/@foundry-rs/anvil-some-os"
    does = f"mkdir -p {place} && cp -r {package} {place}/bin"
    fails = "echo no space left >&2; exit 1"
    program(
        tmp_path / "bin" / "npm", f'echo "$@" > arguments; {does if works else fails}'
    )
    (tmp_path / "package-lock.json").touch()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    monkeypatch.delenv("ANVIL", raising=False)

    assert obtain_anvil(tmp_path) == (
        tmp_path / place / "bin" / "anvil" if works else None
    )
    assert ("done" if works else "no space left") in capsys.readouterr().err
    assert "ci --omit=dev --ignore-scripts" in (tmp_path / "arguments").read_text()


@pytest.mark.parametrize("folder", [".", "tests/browser/npm", "tests/e2e/hardhat"])
def test_the_npm_lock_has_hashes_and_no_addresses(folder: str) -> None:
    """So any registry may serve the packages."""
    lock = json.loads((ROOT / folder / "package-lock.json").read_text())
    packages = [entry for name, entry in lock["packages"].items() if name]

    assert len(packages) > 2
    assert all(entry["integrity"].startswith("sha512-") for entry in packages)
    assert not any("resolved" in entry for entry in packages)
