"""``hotwallet approvals``, and commands of operators who show a token."""

import tomllib
from pathlib import Path

import pytest

from api.views.administration import list_lines
from backends.sql import SQLStore
from signer.approvals import OpenApprovals
from signer.model.hold import EVERYTHING
from tests.api.commands import AsAdministrator, Run
from tests.fixtures.ledger import FORGED_APPROVAL, forge
from tests.support.approvers import PAGE, OpenSSH
from tests.support.ledgers import seal


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


_SSH = pytest.mark.needs("ssh-keygen")


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, OpenSSH]:
    """Keys of ssh-keygen, of the people in APPROVERS_FILE."""
    keys = {name: OpenSSH.generate(tmp_path / name) for name in ("alice", "bob")}
    file = tmp_path / "approvers.toml"
    tables = [
        f'[people.{name}.keys]\nlaptop = "{key.line}"' for name, key in keys.items()
    ]
    file.write_text("\n".join([f'deployment = "tests"\npage = "{PAGE}"', *tables]))
    monkeypatch.setenv("APPROVERS_FILE", str(file))
    return keys


@_SSH
def test_two_people_sign_with_ssh_keys(
    stopped: Run, tmp_path: Path, keys: dict[str, OpenSSH], sqlite_store: SQLStore
) -> None:
    """No token and no other service takes part; one command prints what they sign."""
    refused = stopped(*RESUME)
    digest = stopped("approvals", "list", "--json").json["approvals"][0]["digest"]
    tokenless = stopped("approvals", "approve", digest, *APPROVE)
    for name, key in keys.items():
        text = stopped("approvals", "text", digest, "--approver", name)
        link = stopped("approvals", "text", digest, "--approver", name, "--json")
        (tmp_path / "text").write_text(text.out)
        sign = ("approvals", "sign", str(tmp_path / "text"), "--key", str(key.path))
        signed = stopped(*sign, "--yes")
        (tmp_path / "signature").write_text(signed.out)
        approve = ("approvals", "approve", digest, *APPROVE)
        done = stopped(*approve, "--signature", str(tmp_path / "signature"))
        assert done.status == 0, done.err
        assert text.out == link.json["text"]
        assert text.out in signed.err
        assert link.json["link"].startswith(f"{PAGE}#")
    resumed = stopped(*RESUME)

    assert "approval-required" in refused.err
    assert "signature is required" in tokenless.err
    assert 'approved by "token:alice token:bob"' in done.out
    assert resumed.status == 0
    assert sqlite_store.find_stop(EVERYTHING) is None


@_SSH
def test_an_emergency_with_a_key(
    stopped: Run, tmp_path: Path, keys: dict[str, OpenSSH]
) -> None:
    stopped(*RESUME)
    digest = stopped("approvals", "list", "--json").json["approvals"][0]["digest"]
    text = stopped("approvals", "text", digest, "--approver", "bob", "--break-glass")
    (tmp_path / "signature").write_text(keys["bob"].sign(text.out))
    alone = ("approvals", "break-glass", digest, *APPROVE)
    done = stopped(*alone, "--signature", str(tmp_path / "signature"))

    assert "decision: break-glass" in text.out
    assert done.status == 0, done.err
    assert stopped(*RESUME).status == 0


@_SSH
def test_what_is_no_text_is_not_signed(
    run: Run, tmp_path: Path, keys: dict[str, OpenSSH]
) -> None:
    """Such as characters that a terminal shows in another order; or without a key."""
    text = tmp_path / "text"
    text.write_text("approver: \u202eecila\n")
    sign = ("approvals", "sign", str(text), "--yes", "--key")
    hidden = run(*sign, str(keys["bob"].path))
    text.write_text("approver: alice\n")
    keyless = run(*sign, str(tmp_path / "absent"))

    assert "must be what `approvals text` prints" in hidden.err
    assert "ssh-keygen did not sign" in keyless.err
    assert (hidden.out, keyless.out) == ("", "")


@_SSH
def test_the_lines_of_a_key_and_the_page(
    run: Run, tmp_path: Path, keys: dict[str, OpenSSH]
) -> None:
    public = keys["bob"].path.with_name("bob.pub")
    lines = run(
        "approvals", "key", str(public), "--approver", "bob", "--name", "laptop"
    )
    private = ("approvals", "key", str(keys["bob"].path), "--approver", "bob")
    refused = run(*private, "--name", "laptop")
    written = run("approvals", "page", "--out", str(tmp_path / "approve.html"))

    expected = {"bob": {"keys": {"laptop": keys["bob"].line}}}
    assert tomllib.loads(lines.out) == {"people": expected}
    assert refused.status != 0
    assert "PRIVATE" not in refused.err
    assert written.status == 0
    assert (tmp_path / "approve.html").read_text().startswith("<!doctype html>")


def test_texts_need_the_file(stopped: Run) -> None:
    stopped(*RESUME)
    digest = stopped("approvals", "list", "--json").json["approvals"][0]["digest"]
    refused = stopped("approvals", "text", digest, "--approver", "bob")

    assert "set APPROVERS_FILE" in refused.err


@_SSH
def test_an_auditor_verifies_who_signed(
    stopped: Run, tmp_path: Path, keys: dict[str, OpenSSH], sqlite_store: SQLStore
) -> None:
    """With the export and the file; without one of its keys the signatures are bad."""
    stopped(*RESUME)
    digest = stopped("approvals", "list", "--json").json["approvals"][0]["digest"]
    for name, key in keys.items():
        text = stopped("approvals", "text", digest, "--approver", name).out
        (tmp_path / "signature").write_text(key.sign(text))
        approve = ("approvals", "approve", digest, *APPROVE)
        stopped(*approve, "--signature", str(tmp_path / "signature"))
    stopped(*RESUME)
    while seal(sqlite_store):
        pass
    export, file = tmp_path / "audit.jsonl", tmp_path / "approvers.toml"
    stopped("audit", "export", "--out", str(export))
    verify = ("audit", "approvals", str(export), "--approvers")
    good = stopped(*verify, str(file))
    other = OpenSSH.generate(tmp_path / "other")
    (tmp_path / "new.toml").write_text(
        file.read_text().replace(keys["bob"].line, other.line)
    )
    bad = stopped(*verify, str(tmp_path / "new.toml"))

    assert (good.status, good.out) == (0, "1 approvals are signed by enough people\n")
    assert bad.status == 1
    assert "was used 1 times, and enough people have signed it 0 times" in bad.out
