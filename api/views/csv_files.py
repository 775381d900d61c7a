"""CSV (RFC 4180) that no spreadsheet executes."""

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any


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
