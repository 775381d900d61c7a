"""Finding and installing anvil."""

import json
from pathlib import Path

import pytest

from dev.anvil import ROOT, find_anvil
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


@pytest.mark.parametrize(
    "folder", [".", "tests/browser/npm", "tests/e2e/edr", "tests/e2e/hardhat"]
)
def test_the_npm_lock_has_hashes_and_no_addresses(folder: str) -> None:
    """So any registry may serve the packages."""
    lock = json.loads((ROOT / folder / "package-lock.json").read_text())
    packages = [entry for name, entry in lock["packages"].items() if name]

    assert packages
    assert all(entry["integrity"].startswith("sha512-") for entry in packages)
    assert not any("resolved" in entry for entry in packages)
