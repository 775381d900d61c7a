"""``hotwallet db mac-key``: what it prints, and when it refuses."""

from pathlib import Path

import pytest

from tests.api.commands import Run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "mac.key"


def _ids(path: Path) -> list[str]:
    return [line.split()[0] for line in path.read_text(encoding="ascii").splitlines()]


def test_a_key_is_created_and_replaced(hotwallet: Run, out: Path) -> None:
    """Each step prints the id of its key and what follows, and no key."""
    command = ("db", "mac-key", "--out", str(out))
    created = hotwallet(*command)
    added = hotwallet(*command, "--add")
    old, new = _ids(out)
    activated = hotwallet(*command, "--activate")
    repeated = hotwallet(*command, "--activate")

    assert created.out == (
        f"created the MAC key {old} in {out}, which is active; copy the file to every"
        " host\n"
    )
    assert added.out == (
        f"added the MAC key {new} in {out}; {old} is active; copy the file to every"
        " host, restart them all, then use --activate\n"
    )
    assert activated.out == (
        f"activated the MAC key {new} in {out}; copy the file to every host and"
        " restart them all; the other keys only verify\n"
    )
    assert repeated.out == (
        f"the MAC key {new} in {out} is the newest and already active; nothing was"
        " changed\n"
    )
    statuses = [each.status for each in (created, added, activated, repeated)]
    assert statuses == [0] * 4
    assert _ids(out) == [new, old]


def test_json(hotwallet: Run, out: Path) -> None:
    command = ("db", "mac-key", "--out", str(out), "--json")
    documents = [
        hotwallet(*command).json,
        hotwallet(*command, "--add").json,
        hotwallet(*command, "--activate").json,
        hotwallet(*command, "--activate").json,
    ]
    new, old = _ids(out)

    assert documents == [
        {"action": action, "path": str(out), "keyId": key_id, "activeKeyId": active}
        for action, key_id, active in (
            ("created", old, old),
            ("added", new, old),
            ("activated", new, new),
            ("unchanged", new, new),
        )
    ]


def test_refusals(hotwallet: Run, out: Path) -> None:
    """Each explains the next step, and changes nothing."""
    command = ("db", "mac-key", "--out", str(out))
    missing = hotwallet(*command, "--add"), hotwallet(*command, "--activate")
    assert not out.exists()
    hotwallet(*command)
    before = out.read_bytes()
    exists = hotwallet(*command)
    both = hotwallet(*command, "--add", "--activate")

    assert {each.status for each in (*missing, exists)} == {1}
    for each in missing:
        assert "does not exist: create it without --add and --activate" in each.err
    assert "exists: --add adds a new key to it" in exists.err
    assert both.status == 2
    assert "are two steps" in both.err
    assert out.read_bytes() == before


def test_an_unusable_file(hotwallet: Run, out: Path) -> None:
    """Its content is not quoted."""
    out.touch(0o600)
    out.write_bytes(b"canary\n")
    refused = hotwallet("db", "mac-key", "--out", str(out), "--add")

    assert refused.status == 78
    assert refused.err.startswith("refused: mac-key-invalid: ")
    assert "canary" not in refused.err
    assert out.read_bytes() == b"canary\n"


def test_a_file_that_cannot_be_written(hotwallet: Run, tmp_path: Path) -> None:
    out = tmp_path / "missing" / "mac.key"
    refused = hotwallet("db", "mac-key", "--out", str(out))

    assert refused.status == 1
    assert f"'{out}': No such file or directory" in refused.err
