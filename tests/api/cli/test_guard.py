"""``hotwallet guard --json``."""

from pathlib import Path

import pytest

from tests.api.commands import started


def test_refusals_for_programs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Status 78, one object on standard output, and a line per refusal on stderr."""
    monkeypatch.setenv("APP_ENV", "production")
    monkeypatch.setenv("NETWORKS_FILE", str(tmp_path / "missing.toml"))
    told = started(monkeypatch, capsys)("guard", "--json")

    codes = [refusal["code"] for refusal in told.json["refusals"]]
    messages = [refusal["message"] for refusal in told.json["refusals"]]
    assert (told.status, told.json["ok"]) == (78, False)
    assert {"networks-misconfigured", "kms-not-configured"} <= set(codes)
    assert told.err.splitlines() == [
        f"refused: {code}: {message}"
        for code, message in zip(codes, messages, strict=True)
    ]
