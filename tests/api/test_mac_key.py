"""The file of MAC keys: created once, and replaced without an unknown key in use."""

import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from api.backend_factories import open_row_macs
from api.key_files import (
    activate_mac_key,
    add_mac_key,
    create_mac_key,
)
from backends.sql import SQLStore
from signer.config.settings import Settings
from signer.errors import ConfigurationError, InvalidInputError
from signer.model.audit_record import Record
from signer.row_macs import RowMACs
from tests.fixtures.races import race


RECORD = Record("au_1", "{}")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "mac.key"


def _ids(path: Path) -> list[str]:
    return [line.split()[0] for line in path.read_text(encoding="ascii").splitlines()]


def _mac(path: Path) -> str:
    """Return the MAC that a process makes which starts with the file at *path*."""
    return RowMACs.load(path).compute(RECORD)


def test_creates_a_private_file(out: Path) -> None:
    """The file has one key, and only its owner may read it; it is kept."""
    key_id = create_mac_key(out).key_id
    before = out.read_bytes()
    with pytest.raises(InvalidInputError, match="exists: --add adds a new key"):
        create_mac_key(out)

    assert out.read_bytes() == before
    assert _ids(out) == [key_id]
    assert _mac(out).startswith(f"{key_id}:")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_hosts_verify_each_other_during_a_rotation(out: Path, tmp_path: Path) -> None:
    """A host one step ahead or late knows the key of every MAC, at each step."""
    old = create_mac_key(out).key_id
    steps = [RowMACs.load(out)]
    new = add_mac_key(out).key_id
    steps.append(RowMACs.load(out))
    added = _ids(out)
    activated = activate_mac_key(out).key_id
    steps.append(RowMACs.load(out))

    assert added == [old, new]
    assert activated == new
    assert _ids(out) == [new, old]
    for one, next_one in pairwise(steps):
        assert one.is_valid(next_one.compute(RECORD), RECORD)
        assert next_one.is_valid(one.compute(RECORD), RECORD)
    assert not steps[0].is_valid(steps[2].compute(RECORD), RECORD)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert [*tmp_path.iterdir()] == [out]


def test_the_newest_key_is_activated(out: Path) -> None:
    """Keys from earlier rotations stay, in their order."""
    created, added, last = create_mac_key(out), add_mac_key(out), add_mac_key(out)
    ids = [each.key_id for each in (created, added, last)]

    assert [each.active_id for each in (created, added, last)] == [ids[0]] * 3
    assert activate_mac_key(out) == ("activated", ids[2], ids[2])
    assert _ids(out) == [ids[2], ids[0], ids[1]]


@pytest.mark.parametrize("added", range(4))
def test_a_key_stays_active_if_it_is_activated_again(out: Path, added: int) -> None:
    """Only the first call changes the file; also after several rotations."""
    newest = create_mac_key(out).key_id
    for _ in range(added):
        newest = add_mac_key(out).key_id
        activate_mac_key(out)
    before = out.read_bytes()

    for _ in range(3):
        assert activate_mac_key(out) == ("unchanged", newest, newest)
        assert out.read_bytes() == before
        assert _mac(out).startswith(f"{newest}:")


def test_keys_that_are_added_at_once_are_all_kept(out: Path) -> None:
    """Each has its own number, and the last one is activated."""
    ids = [create_mac_key(out).key_id]
    with ThreadPoolExecutor(8) as pool:
        ids += [each.key_id for each in pool.map(add_mac_key, [out] * 40)]

    assert sorted(_ids(out)) == sorted(ids)
    assert sorted(int(each.partition("-")[0]) for each in ids) == [*range(1, 42)]
    assert activate_mac_key(out).key_id.startswith("41-")


def test_the_newest_key_does_not_depend_on_the_order_of_the_lines(out: Path) -> None:
    """An operator who removes old keys may also sort the file."""
    create_mac_key(out)
    newest = [add_mac_key(out).key_id, add_mac_key(out).key_id][1]
    first, second, third = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(second + third + first)

    assert activate_mac_key(out) == ("activated", newest, newest)
    assert activate_mac_key(out).action == "unchanged"


def test_the_number_of_a_key_is_not_used_again(out: Path) -> None:
    """The newest key has the highest number, also when old ones were removed."""
    create_mac_key(out)
    second = add_mac_key(out).key_id
    activate_mac_key(out)
    out.write_bytes(out.read_bytes().splitlines(keepends=True)[0])
    third = add_mac_key(out).key_id

    assert second.startswith("2-")
    assert third.startswith("3-")
    assert activate_mac_key(out).key_id == third


def test_ids_without_a_number(out: Path) -> None:
    """Such keys were not generated; a generated one is newer."""
    out.touch(0o600)
    lines = "".join(
        f"{name} {digit * 64}\n" for name, digit in (("b", "0"), ("a", "1"))
    )
    out.write_text(lines, encoding="ascii")
    with pytest.raises(InvalidInputError, match="which of 2 keys is the newest"):
        activate_mac_key(out)
    assert out.read_text(encoding="ascii") == lines
    added = add_mac_key(out)

    assert added.active_id == "b"
    assert activate_mac_key(out).key_id == added.key_id
    assert _ids(out) == [added.key_id, "b", "a"]


@pytest.mark.parametrize("change", [add_mac_key, activate_mac_key])
def test_a_missing_file_is_not_changed(
    out: Path, change: Callable[[Path], object]
) -> None:
    with pytest.raises(InvalidInputError, match="does not exist: create it without"):
        change(out)
    assert not out.exists()


def _wrong_id(line: bytes) -> bytes:
    return line[:-2] + (b"0" if line[-2:-1] != b"0" else b"1") + b"\n"


UNUSABLE: dict[str, tuple[Callable[[bytes], bytes], int]] = {
    "empty": (lambda _: b"", 0o600),
    "no key": (lambda _: b"not a key\n", 0o600),
    "one id twice": (
        lambda _: b"id " + b"0" * 64 + b"\nid " + b"1" * 64,
        0o600,
    ),
    # A host would make MACs that others refuse.
    "an id of another key": (_wrong_id, 0o600),
    # Its keys may be known: a new one in the same file would be as public.
    "of others": (lambda line: line, 0o644),
}


@pytest.mark.parametrize("change", [add_mac_key, activate_mac_key])
@pytest.mark.parametrize("name", UNUSABLE)
def test_an_unusable_file_is_not_changed(
    out: Path, name: str, change: Callable[[Path], object]
) -> None:
    create_mac_key(out)
    make, mode = UNUSABLE[name]
    out.write_bytes(content := make(out.read_bytes()))
    out.chmod(mode)

    with pytest.raises(ConfigurationError) as caught:
        change(out)
    assert [refusal.code for refusal in caught.value.refusals] == ["mac-key-invalid"]
    assert out.read_bytes() == content


def _settings(**environ: str) -> Settings:
    return Settings.from_env({"APP_ENV": "development", **environ})


def _compute(home: Path, _store: SQLStore, _index: int) -> str:
    """Return a MAC under the key that this process creates or finds."""
    macs = open_row_macs(_settings(HOTWALLET_HOME=str(home)))
    assert macs is not None
    return macs.compute(RECORD)


def test_development_creates_one_key_for_all_processes(
    tmp_path: Path, sqlite_url: str
) -> None:
    """Four that start at the same moment make the same MACs."""
    path = tmp_path / "home" / "mac.key"

    macs = race(partial(_compute, path.parent), sqlite_url, 4)

    assert macs == [_mac(path)] * 4
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [*path.parent.iterdir()] == [path]


def test_the_configured_file_is_read(out: Path, tmp_path: Path) -> None:
    """No other key is created; a missing file is refused."""
    home = tmp_path / "home"
    settings = _settings(HOTWALLET_HOME=str(home), MAC_KEY_FILE=str(out))
    with pytest.raises(ConfigurationError, match="mac-key-invalid"):
        open_row_macs(settings)
    create_mac_key(out)
    macs = open_row_macs(settings)

    assert macs is not None
    assert macs.compute(RECORD) == _mac(out)
    assert not home.exists()


def test_production_creates_no_key(tmp_path: Path) -> None:
    """Hosts would have different ones; the guard asks for a file."""
    settings = _settings(APP_ENV="production", HOTWALLET_HOME=str(tmp_path))

    assert open_row_macs(settings) is None
    assert [*tmp_path.iterdir()] == []


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    """The refusal names the ways out."""
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")  # Permissions would not stop root.

    with pytest.raises(ConfigurationError) as caught:
        open_row_macs(_settings(HOTWALLET_HOME=str(blocked / "home")))
    (refusal,) = caught.value.refusals
    assert refusal.code == "mac-key-invalid"
    assert "make the directory writable, or set MAC_KEY_FILE" in refusal.message
