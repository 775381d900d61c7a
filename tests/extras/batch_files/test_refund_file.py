"""The CSV file of ``hotwallet refund submit``: what is accepted, and which errors."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api.extras.batch_files.files import FileError, Row, read_rows
from tests.api.service import RECIPIENT


HEADER = "payment_session_id,network,token,recipient,amount"
ROW = f"ps_1,local,TUSD,{RECIPIENT},12.50"
QUOTED = ",".join(f'"{cell}"' for cell in ROW.split(","))

Read = Callable[..., Any]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Return a function that reads a file with the given content."""

    def read(content: str | bytes) -> Any:
        path = tmp_path / "refunds.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_rows(path)

    return read


def problems(read: Read, content: str | bytes) -> list[str]:
    with pytest.raises(FileError) as refusal:
        read(content)
    first, *rest = refusal.value.message.splitlines()
    assert first == "nothing was sent:"
    return rest


def test_reads_the_columns_in_any_order(read: Read) -> None:
    header = "amount,idempotency_key,reason,recipient,token,network,payment_session_id"
    rows = read(f"{header}\n12.50,k,Für dich 🙁,{RECIPIENT},TUSD,local,ps_1\n")

    assert rows == [
        Row(
            2,
            "k",
            {
                "payment_session_id": "ps_1",
                "network": "local",
                "token": "TUSD",
                "recipient": RECIPIENT,
                "amount": "12.50",
                "reason": "Für dich 🙁",
            },
        )
    ]


@pytest.mark.parametrize(
    ("cells", "key"), [(",,", "ps_1"), ("r1,,", "r1"), ("r1,k1,", "k1"), (",k1,", "k1")]
)
def test_the_key_is_the_reference_by_default(read: Read, cells: str, key: str) -> None:
    """So to submit the file again repeats the same requests."""
    (row,) = read(f"{HEADER},reference,idempotency_key,reason\n{ROW},{cells}\n")

    assert row.idempotency_key == key
    assert "reason" not in row.fields


@pytest.mark.parametrize(
    "content",
    [
        f"{HEADER}\n{ROW}",
        f"{HEADER}\r\n{ROW}\r\n",
        f"\ufeff{HEADER}\n{ROW}\n",
        f"{HEADER}\n\n,,,,\n{ROW}\n\n",
        f"{HEADER}\n{QUOTED}\n",
    ],
    ids=["no last line break", "CRLF", "byte order mark", "empty lines", "quotes"],
)
def test_accepts_what_spreadsheets_write(read: Read, content: str) -> None:
    (row,) = read(content)

    assert row.fields["amount"] == "12.50"
    assert row.reference == "ps_1"


def test_lines_are_counted_in_the_file(read: Read) -> None:
    """Also after empty lines and after line breaks in a cell."""
    header = f"{HEADER},reason"
    broken = f'{ROW},"two\nlines"'

    assert problems(read, f"{header}\n\n{broken}\n{ROW.replace('12.50', '-1')},\n") == [
        "line 3: reason holds control characters or half a surrogate pair",
        'line 5: amount must be plain decimal digits, such as "12.50"',
    ]


def test_formulas_are_plain_text(read: Read) -> None:
    """A cell is sent as it is; nothing evaluates it."""
    (row,) = read(f'{HEADER},reason\n{ROW},"=HYPERLINK(""http://x"",""y"")"\n')

    assert row.fields["reason"] == '=HYPERLINK("http://x","y")'


_KEYS = f"{HEADER},reference,idempotency_key"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", ["line 1: the column payment_session_id is missing"]),
        (HEADER, ["the file has no refunds"]),
        (ROW, ["line 1: the column payment_session_id is missing"]),
        (f"{HEADER},refrence\n{ROW},r\n", ["line 1: the column 'refrence' is unknown"]),
        (f"{HEADER},\n{ROW},\n", ["line 1: the column '' is unknown"]),
        (f"{HEADER},amount\n{ROW},1\n", ["line 1: the column amount appears twice"]),
        (HEADER.replace(",", ";"), ["line 1: separate the columns by commas"]),
        (HEADER.replace(",", "\t"), ["line 1: separate the columns by commas"]),
        (f"{HEADER}\n{ROW},x\n", ["line 2: has 6 cells, not 5"]),
        (f"{HEADER}\nps_1\n", ["line 2: has 1 cells, not 5"]),
        (f'{HEADER}\n"{ROW}\n', ["line 2: is not CSV"]),
        (f'{HEADER}\n"ps"x{ROW}\n', ["line 2: is not CSV"]),
        (f"{HEADER}\n{ROW}\n\xff".encode("latin-1"), ["line 3: is not UTF-8"]),
        (f"{HEADER}\n{ROW}\n".encode("utf-16"), ["line 1: is not UTF-8"]),
        (f"{HEADER}\n{ROW}\0\n", ["line 2:"]),
        (f"{HEADER}\n{ROW.replace('12.50', '12,50')}\n", ["line 2: has 6 cells"]),
        (f"{HEADER}\n{ROW.replace('12.50', '1e3')}\n", ["line 2: amount must be"]),
        (f"{HEADER}\n{ROW.replace('12.50', '0')}\n", ["line 2: amount must be above"]),
        (f"{HEADER}\n{ROW.replace('12.50', '')}\n", ["line 2: amount is required"]),
        (f"{HEADER}\n {ROW}\n", ["line 2: payment_session_id may hold visible"]),
        (f"{HEADER}\n{ROW.lower()}\n", ["line 2: recipient must be a 20-byte"]),
        (f"{HEADER}\n{ROW}\n{ROW}\n", ["line 3: has the idempotency_key of line 2"]),
        (
            f"{_KEYS}\n{ROW},r1,k\n{ROW},r2,k\n",
            ["line 3: has the idempotency_key of line 2"],
        ),
        (f"{_KEYS}\n{ROW},r,k1\n{ROW},r,k2\n", ["line 3: has the reference of line 2"]),
        (f"{_KEYS}\n{ROW},r,k k\n", ["line 2: idempotency_key must hold 1 to 255"]),
        (f"{_KEYS}\n{ROW},r,{'k' * 256}\n", ["line 2: idempotency_key must hold"]),
    ],
)
def test_a_bad_file_is_refused(
    read: Read, content: str | bytes, expected: list[str]
) -> None:
    """With the line of each problem, and before anything is sent."""
    found = problems(read, content)

    assert [
        line[: len(start)] for line, start in zip(found, expected, strict=False)
    ] == expected


def test_all_problems_are_counted(read: Read) -> None:
    bad = ROW.replace("12.50", "-1")
    found = problems(read, "\n".join([HEADER, *[bad] * 50]))

    assert len(found) == 21
    assert found[-1] == "and 30 more"


def test_a_long_file(tmp_path: Path) -> None:
    """10,000 rows, one of which repeats an earlier reference."""
    path = tmp_path / "refunds.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER.split(","))
        writer.writerows(
            [f"ps_{n}", "local", "TUSD", RECIPIENT, "1"] for n in range(10_000)
        )
    rows = read_rows(path)
    with path.open("a") as file:
        file.write(f"ps_7,local,TUSD,{RECIPIENT},1\n")

    assert (len(rows), rows[-1].line) == (10_000, 10_001)
    with pytest.raises(FileError, match="line 10002: has the reference of line 9"):
        read_rows(path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be read"):
        read_rows(tmp_path)
