"""``hotwallet guard --json``."""

from pathlib import Path

import pytest

from tests.api.commands import Run


def test_refusals_for_programs(
    hotwallet: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 78, one object on standard output, and a line per refusal on stderr."""
    monkeypatch.setenv("APP_ENV", "production")
    monkeypatch.setenv("NETWORKS_FILE", str(tmp_path / "missing.toml"))
    finished = hotwallet("guard", "--json")

    codes = [refusal["code"] for refusal in finished.json["refusals"]]
    messages = [refusal["message"] for refusal in finished.json["refusals"]]
    assert (finished.status, finished.json["ok"]) == (78, False)
    assert {"networks-misconfigured", "kms-not-configured"} <= set(codes)
    assert finished.err.splitlines() == [
        f"refused: {code}: {message}"
        for code, message in zip(codes, messages, strict=True)
    ]
