"""``hotwallet db mac-key``: what it prints, and when it refuses."""

from pathlib import Path

import pytest

from tests.api.commands import Run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "mac.key"


def _ids(path: Path) -> list[str]:
    return [line.split()[0] for line in path.read_text(encoding="ascii").splitlines()]


@pytest.mark.parametrize("as_json", [False, True])
def test_a_key_is_created_and_replaced(
    hotwallet: Run, out: Path, *, as_json: bool
) -> None:
    """Each step prints the id of its key and what follows, and no key."""
    command = ("db", "mac-key", "--out", str(out), *(["--json"] if as_json else []))
    options = ((), ("--add",), ("--activate",), ("--activate",))
    done = [hotwallet(*command, *each) for each in options]
    new, old = _ids(out)

    assert [each.status for each in done] == [0] * 4
    if as_json:
        assert [each.json for each in done] == [
            {"action": action, "path": str(out), "keyId": key_id, "activeKeyId": active}
            for action, key_id, active in (
                ("created", old, old),
                ("added", new, old),
                ("activated", new, new),
                ("unchanged", new, new),
            )
        ]
        return
    copy, nothing = "copy the file to every host", "nothing was changed"
    restart = "restart them all, then use --activate"
    others = "restart them all; the other keys only verify"
    expected = [
        f"created the MAC key {old} in {out}, which is active; {copy}",
        f"added the MAC key {new} in {out}; {old} is active; {copy}, {restart}",
        f"activated the MAC key {new} in {out}; {copy} and {others}",
        f"the MAC key {new} in {out} is the newest and already active; {nothing}",
    ]
    assert [each.out for each in done] == [f"{line}\n" for line in expected]


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
