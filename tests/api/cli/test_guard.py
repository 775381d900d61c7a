"""``hotwallet guard``: its refusals, and what it says about a process of a role."""

from pathlib import Path

import pytest

from api.auth.dev_tokens import provide_signing_key
from api.bootstrap import build_container, record_start
from backends.sql import SQLStore
from signer.config.settings import CREDENTIALS
from tests.api.commands import Run
from tests.fixtures.ledger import forge
from tests.support.ledgers import seal, write_mac_key


NETWORKS = Path(__file__).parents[3] / "docker" / "networks.example.toml"


@pytest.fixture
def process_for_refunds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sqlite_url: str
) -> pytest.MonkeyPatch:
    """The environment of a process that serves refunds only, with a ledger."""
    for name in CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    provide_signing_key(tmp_path / "private.pem", tmp_path / "public.pem")
    for name, value in {
        "APP_ENV": "test",
        "SERVE_ROLE": "refunds",
        "HOTWALLET_HOME": str(tmp_path),
        "DATABASE_URL": sqlite_url,
        "NETWORKS_FILE": str(NETWORKS),
        "JWT_PUBLIC_KEY_FILE": str(tmp_path / "public.pem"),
    }.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.usefixtures("process_for_refunds")
def test_a_process_for_refunds_passes_without_a_key(
    hotwallet: Run, tmp_path: Path
) -> None:
    """It opens no device, asks no node, and makes no token."""
    shown, document = hotwallet("guard"), hotwallet("guard", "--json")

    assert (shown.status, document.status) == (0, 0), shown.err
    assert shown.out.splitlines()[0] == "ok: test, accepting refunds, without a key"
    assert "warning" not in shown.err
    assert {"ok": True, "role": "refunds", "address": None, "warnings": []}.items() <= (
        document.json.items()
    )
    assert not (tmp_path / "softhsm").exists()


def test_a_refused_start_is_recorded(
    process_for_refunds: pytest.MonkeyPatch,
    hotwallet: Run,
    sqlite_store: SQLStore,
    tmp_path: Path,
) -> None:
    """Once the log has begun: the limits of a new ledger need no approval."""
    process_for_refunds.setenv("MAC_KEY_FILE", str(write_mac_key(tmp_path)))
    process_for_refunds.setenv("REQUIRE_APPROVALS", "true")
    record_start(build_container(), "worker")
    forge(sqlite_store, "UPDATE accepted_limits SET document = '[]', version = 1")
    found = []
    for _ in range(2):
        assert hotwallet("guard").status == 78
        seal(sqlite_store)
        found += [each.record.fields for each in sqlite_store.sealed(0, 9)]

    (refusal,) = (each for each in found if each["event"] == "service-start-refused")
    assert (refusal["actor"], refusal["outcome"]) == ("refunds", "limits-raised")
    assert refusal["details"] == {"codes": "limits-raised"}


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
