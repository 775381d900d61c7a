"""Writes the results of ``hotwallet refund submit``, as CSV or JSON lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from api.cli.batch_submission import RowResult


_COLUMNS = (
    "line",
    "idempotency_key",
    "reference",
    "status",
    "refund_id",
    "refund_status",
    "code",
    "field",
    "detail",
)

Write = Callable[[RowResult], object]


def result_document(result: RowResult) -> dict[str, Any]:
    """Return *result* as JSON; what there is not is None."""
    refund, problem = result.refund, result.problem
    values = (
        result.row.line,
        result.row.idempotency_key,
        result.row.reference,
        str(result.status),
        refund.get("id"),
        refund.get("status"),
        problem.get("code"),
        problem.get("field"),
        problem.get("detail"),
    )
    return dict(zip(_COLUMNS, values, strict=True))


@contextmanager
def open_results(path: Path, source: Path) -> Iterator[Write]:
    """
    Replace the file *path*; yield a function that appends a result to it.

    Raises:
        click.UsageError: *path* is *source*, or does not end in .csv or .jsonl.
    """
    if path.suffix not in {".csv", ".jsonl"}:
        raise click.UsageError("--results must end in .csv or .jsonl")
    if path.exists() and path.samefile(source):
        raise click.UsageError("--results must not be the file with the refunds")
    try:
        file = path.open("w", encoding="utf-8", newline="")
    except OSError as e:
        raise click.FileError(str(path), e.strerror) from None
    with file:
        if path.suffix == ".csv":
            writer = csv.writer(file)
            writer.writerow(_COLUMNS)
            yield lambda result: writer.writerow(_cells(result))
        else:
            yield lambda result: print(json.dumps(result_document(result)), file=file)


def _cells(result: RowResult) -> Iterator[str]:
    from api.views.csv_files import safe_cell

    return map(safe_cell, result_document(result).values())
