"""The file of addresses that are never paid."""

from pathlib import Path

import pytest

from signer.config import deny_list
from signer.config.deny_list import DenyList, parse_deny_list
from signer.errors import ConfigurationError, ScreeningUnavailableError


ONE = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
OTHER = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"


def _written(folder: Path, text: str) -> Path:
    path = folder / "denied.txt"
    path.write_text(text)
    return path


def test_reads_one_address_per_line() -> None:
    text = f"# A list.\n\n{ONE}\r\n  {OTHER.lower()}  # stolen funds\n{ONE}\n"

    assert parse_deny_list(text) == {ONE.lower(), OTHER.lower()}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it has no address"),
        ("# nothing\n\n", "it has no address"),
        (f"{ONE}\n{ONE} {OTHER}", "line 2 is no address"),
        (f"{ONE},{OTHER}", "line 1 is no address"),
        (f"{ONE[:-1]}", "line 1 is no address"),
        (f"{ONE}0", "line 1 is no address"),
        (ONE[2:], "line 1 is no address"),
        (f'"{ONE}"', "line 1 is no address"),
        ("name.eth", "line 1 is no address"),
        (f"// {ONE}", "line 1 is no address"),
        (f"\ufeff{ONE}", "line 1 is no address"),
        (f"{ONE}\u2028{OTHER[:-1]}", "line 2 is no address"),
        (ONE.replace("C8", "c8"), "line 1 has a wrong checksum"),
        (ONE.upper().replace("0X", "0x"), "line 1 has a wrong checksum"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as refused:
        DenyList(_written(tmp_path, text))
    (refusal,) = refused.value.refusals
    assert refusal.code == "deny-list-invalid"


@pytest.mark.parametrize("content", [None, b"\xff\xfe", ONE.encode()])
def test_an_unreadable_file_is_refused(
    tmp_path: Path, content: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or one that is too large; its path is not shown."""
    monkeypatch.setattr(deny_list, "MAX_BYTES", 10)
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)

    problem = "more than 10 bytes" if content == ONE.encode() else "cannot be read"
    with pytest.raises(ConfigurationError, match=problem) as refused:
        DenyList(path)
    assert "secret" not in str(refused.value)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    """Also one that was replaced; one that did not change is not read."""
    path = _written(tmp_path, ONE)
    found = DenyList(path)
    first = found.addresses()
    assert found.addresses() is first

    path.write_text(f"{ONE}\n{OTHER}\n")
    assert found.addresses() == {ONE.lower(), OTHER.lower()}
    (tmp_path / "new").write_text(OTHER)
    (tmp_path / "new").replace(path)
    assert found.addresses() == {OTHER.lower()}


@pytest.mark.parametrize("text", ["", "0x12", None])
def test_nothing_is_known_while_the_file_is_wrong(
    tmp_path: Path, text: str | None
) -> None:
    """The list from before does not count: the new one may have more."""
    path = _written(tmp_path, ONE)
    found = DenyList(path)
    if text is None:
        path.unlink()
    else:
        path.write_text(text)

    for _ in range(2):
        with pytest.raises(ScreeningUnavailableError, match="deny list"):
            found.addresses()
    path.write_text(OTHER)
    assert found.addresses() == {OTHER.lower()}
