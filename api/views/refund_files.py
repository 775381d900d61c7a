"""Many refunds as CSV or as JSON lines, a page at a time."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from api.views.refunds import RefundDocument
from signer.model.refund import Refund
from signer.ports.refund_reports import RefundFilter, RefundReports, read_pages


# Spreadsheets execute a cell that begins with one of these.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def safe_cell(value: object) -> str:
    """Return *value* as a cell of CSV that no spreadsheet executes; "" for None."""
    cell = "" if value is None else str(value)
    if cell.startswith(_FORMULA) and not _is_number(cell):
        return f"'{cell}"
    return cell


def write_csv(
    columns: Iterable[str], rows: Iterable[Mapping[str, Any]], *, header: bool = True
) -> str:
    """Return *rows* as CSV (RFC 4180); what a row lacks is empty."""
    file = io.StringIO()
    names = list(columns)
    writer = csv.writer(file)
    if header:
        writer.writerow(names)
    for row in rows:
        writer.writerow([safe_cell(row.get(name)) for name in names])
    return file.getvalue()


def _is_number(cell: str) -> bool:
    return cell.removeprefix("-").replace(".", "", 1).isdecimal()


MEDIA_TYPES = {"csv": "text/csv; charset=utf-8", "jsonl": "application/jsonl"}
"""By format; its first one is the default."""

_PAGE = 200

_SEVERAL = {"id": ("id", "tenant"), "failure": ("failure_code", "failure_detail")}

_COLUMNS = tuple(
    column
    for member in RefundDocument.model_fields
    for column in _SEVERAL.get(member, (member,))
)


def write_refunds(
    search: RefundReports, wanted: RefundFilter, format_: str
) -> Iterator[str]:
    """
    Yield a file with all *wanted* refunds, newest first, in pieces.

    *format_* is one of ``MEDIA_TYPES``.  Memory does not grow with their number.
    """
    write = {"csv": _csv_lines, "jsonl": _json_lines}[format_]
    header = write_csv(_COLUMNS, ()) if format_ == "csv" else ""
    for page in read_pages(search, wanted, _PAGE):
        yield header + write(page.refunds)
        header = ""


def _json_lines(refunds: Sequence[Refund]) -> str:
    return "".join(f"{json.dumps(_document(each))}\n" for each in refunds)


def _csv_lines(refunds: Sequence[Refund]) -> str:
    rows = [_row(_document(each)) for each in refunds]
    return write_csv(_COLUMNS, rows, header=False)


def _document(refund: Refund) -> dict[str, Any]:
    document = RefundDocument.of(refund).dump()
    return {"id": document.pop("id"), "tenant": refund.tenant, **document}


def _row(document: dict[str, Any]) -> dict[str, Any]:
    failure = document.pop("failure") or {}
    return {
        **document,
        "failure_code": failure.get("code"),
        "failure_detail": failure.get("detail"),
    }
