"""The vault: forge's tests pass, and the artefact is what the source compiles to."""

from pathlib import Path

import pytest

from dev import contracts


def test_the_artefact_agrees_with_the_source() -> None:
    """The pinned compiler creates the committed bytes."""
    assert contracts.main(["--check"]) == 0


def test_another_artefact_is_detected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check fails for another bytecode, and writing corrects it."""
    built = contracts.ARTEFACT.read_text()
    artefact = tmp_path / "vault.json"
    artefact.write_text(built.replace("0x60", "0x61", 1))
    monkeypatch.setattr(contracts, "ARTEFACT", artefact)
    monkeypatch.setattr(contracts, "build", lambda out: built)  # Compiled above.

    assert contracts.main(["--check"]) == 1
    assert "vault.json is not what the source" in capsys.readouterr().err
    assert contracts.main([]) == 0
    assert contracts.main(["--check"]) == 0


def test_the_tests_of_forge(tmp_path: Path) -> None:
    """With short fuzz runs."""
    contracts.forge("test", out=tmp_path)


@pytest.mark.soak
def test_the_tests_of_forge_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the runs of the profile ``soak`` in ``foundry.toml``."""
    monkeypatch.setenv("FOUNDRY_PROFILE", "soak")
    contracts.forge("test", out=tmp_path)
