"""Strict JSON: a text has exactly one meaning, or it is refused (H14)."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signer import strict_json
from signer.errors import InvalidInputError


_TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp")), max_size=20
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | _TEXT,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(_TEXT, _VALUES, max_size=4))
def test_reads_every_plain_document(document: dict[str, Any]) -> None:
    written = json.dumps(document).encode()

    assert document == strict_json.loads(written)


@given(st.binary(max_size=200) | st.text(alphabet='{}[]",:\\u0d8e1-.', max_size=80))
def test_raises_no_other_error(body: bytes | str) -> None:
    raw = body.encode() if isinstance(body, str) else body
    try:
        document = strict_json.loads(raw)
    except InvalidInputError:
        return

    assert document == json.loads(raw)
    assert isinstance(document, dict)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"amount": 1.0}', "amount"),
        (b'{"amount": 1e18}', "amount"),
        (b'{"amount": 1E400}', "amount"),
        (b'{"amount": -0.0}', "amount"),
        (b'{"amount": NaN}', "amount"),
        (b'{"amount": Infinity}', "amount"),
        (b'{"amount": -Infinity}', "amount"),
        (b'{"a": {"b": [1, 2.5]}}', "a.b"),
        (b'{"reason": "a\\u0000b"}', "reason"),
        (b'{"reason": "a\\nb"}', "reason"),
        (b'{"reason": "a\\u001b[31mb"}', "reason"),
        (b'{"reason": "a\\u007fb"}', "reason"),
        (b'{"reason": "a\\u0085b"}', "reason"),
        (b'{"reason": "a\\u2028b"}', "reason"),
        (b'{"reason": "\\ud800"}', "reason"),
        (b'{"reason": "\\udc00\\ud800"}', "reason"),
        (b'{"a": 1, "a": 2}', "a"),
        (b'{"a": {"b": 1, "\\u0062": 1}}', "b"),
        (b'{"\\ud800": 1}', None),
        (b'{"bad key\\u0000": 1}', None),
        (b'{"<script>": 1.5}', None),
    ],
)
def test_a_refusal_names_the_field(body: bytes, field: str | None) -> None:
    """Unless the name itself could do harm."""
    with pytest.raises(InvalidInputError) as refusal:
        strict_json.loads(body)

    assert field == refusal.value.field


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"null", b"[]", b'"text"', b"1", b"{", b'{"a"}', b'{"a": 1,}'),
        *(b"{'a': 1}", b'{"a": 01}', b'{"a": +1}', b'{"a": "\x01"}', b'{"a": "\\x41"}'),
        *(b'{"a": 1} {"a": 1}', b'{"a": 1} // comment', b'{"a": "unterminated'),
        *(b'\xef\xbb\xbf{"a": 1}', b'{"a": "\xff"}', b'{"a": "\xed\xa0\x80"}'),
        b'{"a": "\xc0\xaf"}',
        '{"a": 1}'.encode("utf-16"),
        b'{"a": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": ' + b"[" * 16 + b"]" * 16 + b"}",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_refuses_other_texts(body: bytes) -> None:
    with pytest.raises(InvalidInputError):
        strict_json.loads(body)


def test_accepts_sixteen_levels() -> None:
    """Brackets in strings do not count."""
    document = {"a": json.loads("[" * 15 + "]" * 15), "b": "[{" * 100, "c": '"[' * 50}

    assert document == strict_json.loads(json.dumps(document).encode())


def test_does_not_quote_the_input() -> None:
    for body in (b'{"a": canary}', b'{"canary": 1, "canary": 2}', b"canary"):
        with pytest.raises(InvalidInputError) as refusal:
            strict_json.loads(body)

        assert "canary" not in str(refusal.value)
        assert refusal.value.__cause__ is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'[{"a": 1.5}, "x\\ny"]', [{"a": 1.5}, "x\ny"]),
        (b"%d" % 2**256, 2**256),
        (b"null", None),
    ],
)
def test_decodes_what_other_programs_send(body: bytes, expected: object) -> None:
    """Exact integers, fractions and texts; the reader decides what it accepts."""
    assert strict_json.decode(body, 4) == expected


@pytest.mark.parametrize(
    "body",
    [
        *(b"\xff", b"{", b'{"a": 1, "a": 2}', b"[NaN]", b"[-Infinity]", b"[1e999]"),
        *(b"[[[[[1]]]]]", b"9" * 5000),
    ],
)
def test_decodes_nothing_with_two_meanings(body: bytes) -> None:
    with pytest.raises(InvalidInputError):
        strict_json.decode(body, 4)
