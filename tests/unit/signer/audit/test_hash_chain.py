"""The hash chain matches its documentation and other JSON implementations."""

import hashlib
import struct
from datetime import UTC, datetime
from typing import Any

import jcs  # type: ignore[import-untyped]  # It ships none.
from hypothesis import given
from hypothesis import strategies as st

from signer.audit.export import parse, record_line
from signer.audit.hash_chain import GENESIS, link, sealed
from signer.model.audit_record import Record, Sealed
from tests.support.audit import START, records


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
VALUES = st.recursive(
    st.none() | st.booleans() | TEXTS | st.integers(1 - 2**53, 2**53 - 1),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4)
    ),
    max_leaves=6,
)
BODIES = st.dictionaries(TEXTS, VALUES, max_size=4)


def _documented_hash(
    body: dict[str, Any], name: str, before: bytes, place: int
) -> bytes:
    """Compute a hash as ``docs/reference/audit.md`` describes, without our code."""
    text = jcs.canonicalize(body)
    fields = struct.pack(">QQ", place, len(name))
    return hashlib.sha256(
        b"hotwallet audit chain 1: record" + before + fields + name.encode() + text
    ).digest()


@given(bodies=st.lists(BODIES, min_size=1, max_size=2))
def test_a_second_implementation_agrees(bodies: list[dict[str, Any]]) -> None:
    """
    Another RFC 8785 library and ten lines of Python compute the same hashes (A6).

    Each record survives export and parsing byte for byte.
    """
    before = hashlib.sha256(b"hotwallet audit chain 1: genesis").digest()
    links = sealed(0, GENESIS, [Record.of(body, START) for body in bodies])

    for place, (body, each) in enumerate(zip(bodies, links, strict=True), 1):
        before = _documented_hash(body, each.record.id, before, place)
        assert each == Sealed(place, before, each.record)
        assert parse(record_line(each)) == each


def test_known_hashes() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    first = Record("au_019b7a2a5c00" + "00" * 10, Record.of({"event": "a"}, at).body)

    assert GENESIS.hex() == (
        "5e00e7901cf3cf0f1ba1a832a29841c66d936631be7785421cf734c203bd32df"
    )
    assert link(GENESIS, 1, first).hex() == (
        "727fa87d4d56cabc2a64e6aa914796041b848a3b63c04e9bc025464039747e84"
    )


def test_the_hash_covers_every_input() -> None:
    """And separates id and body."""
    first, second = records(2)
    mixed = Record(first.id, second.body)
    shifted = Record(first.id + first.body[0], first.body[1:])
    hashes = {
        link(before, place, each)
        for before in (GENESIS, bytes(32))
        for place in (1, 2, 2**63)
        for each in (first, second, mixed, shifted)
    }

    assert len(hashes) == 24
