"""``hotwallet audit verify --against`` finds what was done to either of two logs."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3  # type: ignore[import-untyped]
import pytest
from click.testing import CliRunner

from api.cli.audit import audit
from api.extras.audit_shipping.places import Place
from api.extras.audit_shipping.reader import segment_name
from signer.audit.checkpoints import CheckpointKey
from signer.audit.export import checkpoint_line, export
from signer.audit.hash_chain import sealed
from tests.extras.audit_shipping.shipping import Shipping
from tests.support.audit import KEY, ORIGIN, START, chain_lines, overruled, record


@dataclass
class Thief:
    """Has the credentials of the place: it writes, deletes and truncates."""

    url: str
    endpoint: str

    def write(self, name: str, content: bytes) -> None:
        if self.url.startswith("file:"):
            Path(urlsplit(self.url).path, name).write_bytes(content)
        else:
            self._client().put_object(**self._key(name), Body=content)

    def delete(self, name: str) -> None:
        if self.url.startswith("file:"):
            Path(urlsplit(self.url).path, name).unlink()
        else:
            self._client().delete_object(**self._key(name))

    def _key(self, name: str) -> dict[str, str]:
        parts = urlsplit(self.url)
        return {"Bucket": parts.netloc, "Key": f"{parts.path.strip('/')}/{name}"}

    def _client(self) -> Any:
        region = "us-east-1"
        return boto3.client("s3", endpoint_url=self.endpoint, region_name=region)


@dataclass
class Auditor:
    """Verifies without the database, with the public key and the URL."""

    url: str
    folder: Path

    def verify(self, *arguments: str) -> tuple[int, dict[str, Any], str]:
        """Return the exit status, the document, and the text."""
        key = self.folder / "key.pub.pem"
        key.write_bytes(KEY.public_pem())
        given = ("verify", *arguments, "--public-key", str(key), "--against", self.url)
        text = CliRunner().invoke(audit, given)
        done = CliRunner().invoke(audit, [*given, "--json"])
        assert done.exit_code == text.exit_code
        return done.exit_code, json.loads(done.stdout or "{}"), text.output


@pytest.fixture
def thief(url: str, s3: str) -> Thief:
    return Thief(url, s3)


@pytest.fixture
def auditor(
    url: str, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Auditor:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return Auditor(url, tmp_path)


@pytest.fixture
def exported(shipping: Shipping, tmp_path: Path) -> Callable[[], str]:
    """Return a function that exports the database to a file."""

    def make() -> str:
        path = tmp_path / "export.jsonl"
        path.write_bytes(b"".join(export(shipping.store, ORIGIN)))
        return str(path)

    return make


@pytest.fixture(autouse=True)
def shipped(shipping: Shipping) -> None:
    """Three segments: records 1 and 2, 3 and 4, 5 and 6; 4 are signed."""
    process = shipping.process()
    for number in range(3):
        shipping.write(2)
        if number == 1:
            shipping.sign()
        process.ship()


def test_a_good_log_and_a_good_export(
    auditor: Auditor, shipping: Shipping, exported: Callable[[], str]
) -> None:
    alone = auditor.verify()
    shipping.write(1)
    both = auditor.verify(exported())

    assert (alone[0], alone[1]["export"]) == (0, None)
    assert (alone[1]["shipped"]["records"], alone[1]["shipped"]["signed"]) == (6, 4)
    assert (both[0], both[1]["unshipped"]) == (0, 1)
    assert "not shipped yet: the last 1 records" in both[2]


def test_a_deleted_end_of_the_database_is_found(
    auditor: Auditor, exported: Callable[[], str], sqlite_url: str
) -> None:
    """Also after the last checkpoint, where no other check can see it."""
    overruled(sqlite_url, "DELETE FROM audit_records WHERE sequence > 4")
    status, document, text = auditor.verify(exported())

    assert (status, document["export"]["ok"]) == (1, True)
    assert document["difference"]["code"] == "missing"
    assert "record 5" in text
    assert "records up to 6 were shipped" in text


def test_a_forked_database_is_found(
    auditor: Auditor, shipping: Shipping, exported: Callable[[], str], sqlite_url: str
) -> None:
    """Its owner replaces what no checkpoint covers, with hashes that fit."""
    overruled(sqlite_url, "DELETE FROM audit_records WHERE sequence > 5")
    shipping.write(3)
    status, document, _ = auditor.verify(exported())

    assert (status, document["export"]["ok"]) == (1, True)
    assert document["difference"]["code"] == "forked"
    assert document["difference"]["record"] == 6


@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_missing_segment_is_found(
    auditor: Auditor,
    thief: Thief,
    exported: Callable[[], str],
    url: str,
    number: int,
) -> None:
    """A bucket keeps what was deleted; of a folder the last one needs an export."""
    thief.delete(segment_name(number))
    alone, both = auditor.verify(), auditor.verify(exported())

    if url.startswith("s3:"):
        assert alone[1]["replaced"] == [segment_name(number)]
        assert alone[1]["shipped"]["records"] == 6
        assert (alone[0], both[0]) == (1, 1)
    else:
        assert (alone[0], both[0]) == (0 if number == 5 else 1, 0 if number == 5 else 1)
        assert both[1]["unshipped"] == (2 if number == 5 else 6 - number + 1)


@pytest.mark.parametrize("content", [b"", b"forged"], ids=["truncated", "replaced"])
def test_what_was_overwritten_is_found(
    auditor: Auditor, thief: Thief, url: str, content: bytes
) -> None:
    """A bucket still has the first version, which is good."""
    thief.write(segment_name(3), content)
    status, document, text = auditor.verify()

    assert status == 1
    if url.startswith("s3:"):
        assert document["shipped"]["ok"]
        assert f"wrote above {segment_name(3)}" in text
    else:
        assert document["shipped"]["finding"]["record"] == 3


def test_a_fork_of_the_shipped_log_is_found(
    auditor: Auditor,
    thief: Thief,
    shipping: Shipping,
    exported: Callable[[], str],
) -> None:
    """A thief is faster than the shipper; the checkpoints that follow show it."""
    last = shipping.store.sealed(5, 1)[0]
    forged = sealed(6, last.hash, [record(99, at=START)])
    thief.write(segment_name(7), b"".join(chain_lines(forged)))
    shipping.write(1)
    before = auditor.verify(exported())
    shipping.sign()
    with pytest.raises(Exception, match="is not what this ledger has"):
        shipping.process().ship()
    after = auditor.verify()

    assert before[1]["difference"]["code"] == "forked"
    assert before[1]["difference"]["record"] == 7
    assert (after[0], after[1]["shipped"]["finding"]["code"]) == (1, "replaced")


def test_a_swapped_log_is_found(
    auditor: Auditor, shipping: Shipping, exported: Callable[[], str], tmp_path: Path
) -> None:
    """Another service's log has another origin, or another key."""
    other = tmp_path / "other.pem"
    other.write_bytes(CheckpointKey.generate().public_pem())
    wrong = CliRunner().invoke(
        audit, ["verify", "--public-key", str(other), "--against", auditor.url]
    )
    path = Path(exported())
    text = path.read_text().replace(ORIGIN, "hotwallet/another")
    path.write_text(text)
    swapped = auditor.verify(str(path))

    assert wrong.exit_code == 1
    assert swapped[0] == 1
    assert not swapped[1]["export"]["ok"]


UNSIGNED = CheckpointKey.generate().sign(ORIGIN, 10**18, bytes(32), START).note


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("records/00000000000000000001", b"garbage\n"),  # It is listed before ours.
        ("records/\u00b2.jsonl", b"x"),  # A digit of another kind.
        (segment_name(2), b"garbage\n"),
        ("checkpoints/x", b"x"),
        ("checkpoints/zzz", checkpoint_line(UNSIGNED)),
    ],
    ids=["unpadded", "superscript", "between", "garbage", "unsigned"],
)
def test_what_is_planted_is_no_part_of_the_log(
    auditor: Auditor, thief: Thief, name: str, content: bytes
) -> None:
    """It cannot be deleted, so it must not end the verification; also a second time."""
    thief.write(name, content)
    thief.write(name, content)
    status, document, _ = auditor.verify()

    assert (status, document["replaced"]) == (0, [])
    assert document["shipped"]["records"] == 6
    unsigned = document["shipped"]["forgedCheckpoints"]
    assert document["ignored"] == ([] if unsigned else [name])


def test_names_do_not_move_the_cursor(auditor: Auditor, thief: Thief, url: str) -> None:
    if url.startswith("file:"):  # moto takes no such name.
        thief.write("checkpoints/\x1b[2J\nok: all is well", b"x")
        assert "\\x1b[2J\\nok: all" in auditor.verify()[2]


def test_a_numbered_line_hides_no_later_segment(
    auditor: Auditor, thief: Thief, exported: Callable[[], str]
) -> None:
    """The next name is free for a thief, and the shipper stops there."""
    line = b'{"hash":"%s","raw":"AA==","sequence":%d}\n' % (b"0" * 64, 10**15)
    thief.write(segment_name(7), line)
    status, document, _ = auditor.verify(exported())

    assert status == 1
    assert document["shipped"]["finding"]["record"] == 7
    assert document["export"]["ok"]


def test_an_export_comes_from_standard_input(
    auditor: Auditor, exported: Callable[[], str], place: Place
) -> None:
    (auditor.folder / "key.pub.pem").write_bytes(KEY.public_pem())
    key = str(auditor.folder / "key.pub.pem")
    given = ["verify", "-", "--public-key", key, "--against", place.url]
    done = CliRunner().invoke(audit, given, input=Path(exported()).read_bytes())

    assert done.exit_code == 0, done.output
    assert f"export: ok: 6 records of {ORIGIN}" in done.output


def test_a_place_that_cannot_be_read_exits_with_2(auditor: Auditor) -> None:
    alone = CliRunner().invoke(audit, ["verify", "--public-key", __file__])
    auditor.url = "https://example.com"

    assert auditor.verify()[0] == alone.exit_code == 2
