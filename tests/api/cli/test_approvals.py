"""``hotwallet approvals``, and commands of operators who show a token."""

from pathlib import Path

import pytest

from api.views.administration import list_lines
from backends.sql import SQLStore
from signer.approvals import OpenApprovals
from signer.model.hold import EVERYTHING
from tests.api.commands import AsAdministrator, Run
from tests.fixtures.ledger import FORGED_APPROVAL, forge


@pytest.fixture
def run(approving: Run) -> Run:
    return approving


@pytest.fixture
def stopped(run: Run) -> Run:
    assert run("stop", "--reason", "odd refunds").status == 0
    return run


RESUME = ("resume", "--reason", "explained")
APPROVE = ("--reason", "checked", "--yes")


def test_two_operators_with_tokens_end_a_stop(
    stopped: Run, as_administrator: AsAdministrator, sqlite_store: SQLStore
) -> None:
    refused = as_administrator("alice", "signing:stop", *RESUME)
    listed = stopped("approvals", "list", "--json")
    text = stopped("approvals", "list")
    (waiting,) = listed.json["approvals"]
    digest = waiting["digest"][:16]
    decide = ("approvals", "approve", digest, *APPROVE)
    own = as_administrator("alice", "approvals:decide", *decide)
    approved = as_administrator("bob", "approvals:decide", *decide)
    resumed = as_administrator("alice", "signing:stop", *RESUME)

    assert refused.status != 0
    assert f"hotwallet approvals approve {digest}" in refused.err
    assert (listed.status, text.status) == (1, 1)
    assert f"{digest} waiting: signing-resume" in text.out
    assert 'requested by "token:alice"' in text.out
    assert "Z: explained\n" in text.out
    assert own.status != 0
    assert "you asked for the change" in own.err
    assert approved.status == 0
    assert 'approved by "token:bob"' in approved.out
    assert "everything: resumed" in resumed.out
    assert stopped("approvals", "list").out == "nothing waits for an approval\n"
    assert sqlite_store.find_stop(EVERYTHING) is None


def test_a_user_name_is_not_enough(
    stopped: Run, as_administrator: AsAdministrator, sqlite_store: SQLStore
) -> None:
    """
    Also if it asks, and a token approves: both could be one person.

    The glass breaks without a token: the identity provider may be down.
    """
    stopped(*RESUME)
    (waiting,) = stopped("approvals", "list", "--json").json["approvals"]
    decide = ("approvals", "approve", waiting["digest"], *APPROVE)
    answers = [
        stopped(*decide),
        as_administrator("bob", "approvals:decide", *decide),
    ]
    is_stopped = sqlite_store.find_stop(EVERYTHING) is not None
    glass = ("approvals", "break-glass", waiting["digest"], "--reason", "why")
    unsure, broken = stopped(*glass), stopped(*glass, "--yes")

    assert [each.status != 0 for each in answers] == [True, True]
    assert all("OPERATOR_TOKEN_FILE" in each.err for each in answers)
    assert is_stopped
    assert unsure.status != 0
    assert "--yes" in unsure.err
    assert "signing-resume" in unsure.err
    assert broken.status == 0
    assert "everything: resumed" in stopped(*RESUME).out


@pytest.mark.parametrize(
    ("content", "message"),
    [("no token", "token-malformed"), (None, "cannot be read"), ("\u00e9", "read")],
)
def test_a_bad_token_file_is_an_error(
    stopped: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str | None,
    message: str,
) -> None:
    """The stop itself needs no token, however bad the file is."""
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content, encoding="utf-8")
        path.chmod(0o600)
    monkeypatch.setenv("OPERATOR_TOKEN_FILE", str(path))
    refused = stopped(*RESUME)

    assert refused.status != 0
    assert message in refused.err
    assert stopped("stop", "--reason", "again").status == 0
    assert stopped("approvals", "list").out == "nothing waits for an approval\n"


def test_a_token_of_another_scope_or_a_used_one_is_refused(
    stopped: Run,
    as_administrator: AsAdministrator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = as_administrator("alice", "keys:rotate", *RESUME)
    as_administrator("alice", "signing:stop", *RESUME)
    monkeypatch.setenv("OPERATOR_TOKEN_FILE", str(tmp_path / "token"))
    again = stopped(*RESUME)

    assert "needs the scope signing:stop" in refused.err
    assert "token-replayed" in again.err


def test_production_needs_two_whatever_is_set(
    stopped: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No setting of the one who runs a command ends it."""
    monkeypatch.setenv("REQUIRE_APPROVALS", "false")
    monkeypatch.setenv("APP_ENV", "production")

    assert "approval" in stopped(*RESUME).err
    assert stopped("stops").status == 1


def test_others_may_not_read_the_token(
    stopped: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    path.write_text("x", encoding="ascii")
    path.chmod(0o644)
    monkeypatch.setenv("OPERATOR_TOKEN_FILE", str(path))

    assert "chmod 600" in stopped(*RESUME).err


def test_the_list_counts_what_another_program_inserted(
    run: Run, sqlite_store: SQLStore
) -> None:
    assert run("approvals", "list").status == 0
    forge(sqlite_store, FORGED_APPROVAL.format(digest="f" * 64))
    text = run("approvals", "list")

    assert text.status == 1
    assert text.out.startswith("left out: 1 rows that another program changed")
    assert run("approvals", "list", "--json").json == {
        "approvals": [],
        "complete": True,
        "nextCursor": None,
        "changedRows": 1,
    }


def test_the_list_says_that_it_is_not_complete() -> None:
    lines = list(list_lines(OpenApprovals([], 0, 200)))

    assert [line.split(":")[0] for line in lines] == ["there may be more"]
