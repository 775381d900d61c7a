"""``hotwallet tenants``."""

from collections.abc import Callable
from pathlib import Path

import pytest

from api.cli.operator import current_operator
from backends.sql import SQLStore
from tests.api.commands import Run
from tests.fixtures.ledger import forge, forged_end


TENANTS = """
[tenants.shop]
subjects = ["shop-1", "shop-2"]
client_ids = ["shop-gateway"]
"""


@pytest.fixture
def run(
    run: Run,
    networks: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    networks()
    path = tmp_path / "tenants.toml"
    path.write_text(TENANTS, encoding="utf-8")
    monkeypatch.setenv("TENANTS_FILE", str(path))
    return run


def test_tenants_are_listed(run: Run) -> None:
    assert run("tenants", "list").out == "shop: shop-1, shop-2, shop-gateway\n"
    assert run("tenants", "list", "--json").json == [
        {
            "tenant": "shop",
            "subjects": ["shop-1", "shop-2"],
            "clientIds": ["shop-gateway"],
            "blockedAt": None,
            "blockedBy": None,
            "blockReason": None,
            "alert": None,
            "evidence": None,
            "authentic": True,
        }
    ]


def test_blocks_are_listed(run: Run, sqlite_store: SQLStore) -> None:
    """With the operator; ``tests/api/actions`` has how a changed one is ended."""
    run("tenants", "block", "shop", "--yes")
    blocked, (document,) = run("tenants", "list"), run("tenants", "list", "--json").json
    forged_end(sqlite_store)
    forged = run("tenants", "list")

    operator = current_operator().name
    assert document["blockedBy"] == operator
    assert f"  blocked since {document['blockedAt']} by {operator}\n" in blocked.out
    assert forged.out.splitlines()[1:] == [
        "  not authentic: another program changed this row; block again and unblock"
    ]
    assert run("tenants", "list", "--json").json[0]["authentic"] is False


def test_an_inserted_block_is_printed_safely(run: Run, sqlite_store: SQLStore) -> None:
    """Its name may have control characters of a terminal."""
    forge(
        sqlite_store,
        "INSERT INTO holds (name, at, reason, requested_by, version) VALUES ('tenant '"
        " || char(27) || '[2J', '2026-11-26T00:00:00.000000+00:00', '', 'thief', 0)",
    )

    assert run("tenants", "list").out.startswith("'\\x1b[2J': not in TENANTS_FILE\n")


def test_without_a_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each subject is a tenant, and can be blocked before its first refund."""
    monkeypatch.delenv("TENANTS_FILE")
    empty = run("tenants", "list")
    blocked = run("tenants", "block", "gateway-1", "--yes")
    listed = run("tenants", "list")

    assert empty.out.startswith("TENANTS_FILE is not set")
    assert blocked.out == "gateway-1: blocked\n"
    assert listed.out.startswith("gateway-1: not in TENANTS_FILE\n  blocked since")


def test_a_malformed_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command refuses with the code of the guard and status 78."""
    path = tmp_path / "other.toml"
    path.write_text("[tenants.shop]", encoding="utf-8")
    monkeypatch.setenv("TENANTS_FILE", str(path))
    finished = run("tenants", "block", "shop", "--yes")

    assert finished.status == 78
    assert (
        "refused: tenants-misconfigured: TENANTS_FILE: tenants.shop: " in finished.err
    )
