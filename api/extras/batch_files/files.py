"""Reads the CSV file of ``hotwallet refund submit``, and checks all of it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from signer.errors import InvalidInputError


MAX_ROWS = 200_000
_MAX_BYTES = 128 * 1024 * 1024
_MOST_SHOWN = 20  # Problems of one file.

# More than any token has: the service knows the token's own.
_DECIMALS = 36

_KEY = re.compile(r"[!-~]{1,255}")


class FileError(click.ClickException):
    """The file cannot be submitted; each problem has its line.  Nothing was sent."""

    exit_code = 2

    def __init__(self, problems: Sequence[str]) -> None:
        shown = [*problems[:_MOST_SHOWN]]
        if len(problems) > _MOST_SHOWN:
            shown.append(f"and {len(problems) - _MOST_SHOWN} more")
        super().__init__("\n".join(["nothing was sent:", *shown]))


@dataclass(frozen=True, slots=True)
class Row:
    """A refund of the file: the line where it begins, its key and its fields."""

    line: int
    idempotency_key: str
    fields: Mapping[str, str]

    @property
    def reference(self) -> str:
        """The gateway's name of the refund; the payment session by default."""
        return self.fields.get("reference") or self.fields["payment_session_id"]


def read_rows(path: Path) -> Sequence[Row]:
    """
    Return the refunds of the CSV file *path* (RFC 4180, in UTF-8).

    The idempotency key is the reference unless the file has one, so that submitting the
    file again repeats the same requests.

    Raises:
        FileError: The file cannot be read, or a row is not valid.
    """
    problems: list[str] = []
    rows = list(_valid_rows(_records(path), problems))
    problems += _repeated(rows, "idempotency_key")
    problems += _repeated(rows, "reference")
    if problems:
        raise FileError(problems)
    if not rows:
        raise FileError(["the file has no refunds"])
    return rows


def _valid_rows(
    records: Iterator[tuple[int, Sequence[str]]], problems: list[str]
) -> Iterator[Row]:
    """Yield the valid rows; add the problems of the others to *problems*."""
    _, header = next(records, (1, ()))
    _check_header(header)
    for count, (line, cells) in enumerate(records, 1):
        if count > MAX_ROWS:
            raise FileError([f"a file may have {MAX_ROWS} refunds: split it"])
        if len(cells) != len(header):
            problems.append(f"line {line}: has {len(cells)} cells, not {len(header)}")
            continue
        try:
            yield _read_row(line, dict(zip(header, cells, strict=True)))
        except InvalidInputError as e:
            problems.append(f"line {line}: {e.field or 'the row'} {e}")


def _records(path: Path) -> Iterator[tuple[int, Sequence[str]]]:
    """Yield the records of *path* that are not empty, with the first line of each."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise FileError([f"the file has more than {_MAX_BYTES} bytes: split it"])
        content = path.read_bytes()
    except OSError as e:
        raise FileError([f"the file cannot be read: {e.strerror}"]) from None
    try:
        text = content.decode("utf-8-sig")  # Spreadsheets write a byte order mark.
    except UnicodeDecodeError as e:
        line = content.count(b"\n", 0, e.start) + 1
        raise FileError(
            [f"line {line}: is not UTF-8: save the file as UTF-8"]
        ) from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for cells in reader:
            if any(cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as e:
        raise FileError([f"line {line}: is not CSV: {e}"]) from None


def _check_header(header: Sequence[str]) -> None:
    from signer.refunds.request_body import RefundRequestBody

    members = RefundRequestBody.model_fields
    required = [name for name, each in members.items() if each.is_required()]
    known = (*members, "idempotency_key")
    if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        raise FileError(["line 1: separate the columns by commas"])
    problems = [
        f"line 1: the column {n} is missing" for n in required if n not in header
    ]
    problems += [
        f"line 1: the column {name!a} is unknown; the columns are {', '.join(known)}"
        for name in header
        if name not in known
    ]
    problems += [
        f"line 1: the column {name} appears twice"
        for name in known
        if header.count(name) > 1
    ]
    if problems:
        raise FileError(problems)


def _read_row(line: int, cells: Mapping[str, str]) -> Row:
    from eth_utils.address import is_checksum_address

    from signer import strict_json
    from signer.amounts import parse_units
    from signer.refunds.request_body import read_refund

    fields = {name: cell for name, cell in cells.items() if cell}
    key = fields.pop("idempotency_key", None)
    strict_json.check(fields)
    request = read_refund(fields)
    parse_units(request.amount, _DECIMALS)
    if not is_checksum_address(request.recipient):
        raise InvalidInputError(
            "must be a 20-byte address with its EIP-55 checksum", field="recipient"
        )
    key = key or request.reference
    if not _KEY.fullmatch(key):
        raise InvalidInputError(
            "must hold 1 to 255 visible ASCII characters", field="idempotency_key"
        )
    return Row(line, key, fields)


def _repeated(rows: Sequence[Row], name: str) -> Iterator[str]:
    """Yield a problem for each row whose *name* an earlier row has."""
    first: dict[str, int] = {}
    for row in rows:
        value: str = getattr(row, name)
        line = first.setdefault(value, row.line)
        if line != row.line:
            yield f"line {row.line}: has the {name} of line {line}"
