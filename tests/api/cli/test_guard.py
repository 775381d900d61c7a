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


def test_both_files_are_reported_once(
    hotwallet: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits of tenants need the networks, whose problem is not repeated."""
    tenants = tmp_path / "tenants.toml"
    monkeypatch.setenv("APP_ENV", "test")
    monkeypatch.setenv("NETWORKS_FILE", str(tmp_path / "missing.toml"))
    monkeypatch.setenv("TENANTS_FILE", str(tenants))
    found = []
    for text in ("", "[tenants.a]\nsubjects = ['a']"):
        tenants.write_text(text, encoding="utf-8")
        refusals = hotwallet("guard", "--json").json["refusals"]
        found.append([refusal["code"] for refusal in refusals])

    both, networks = found
    assert both.count("networks-misconfigured") == 1
    assert both.count("tenants-misconfigured") == 1
    assert networks.count("networks-misconfigured") == 1
    assert "tenants-misconfigured" not in networks
