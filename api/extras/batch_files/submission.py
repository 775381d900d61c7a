"""Submits refunds in batches, repeats what had no answer, and writes the results."""

from __future__ import annotations

import csv
import json
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import click

from api.extras.batch_files.files import Row
from signer.errors import InvalidInputError
from signer.strict_json import MAX_DEPTH, is_deeper


class BatchReply(NamedTuple):
    """
    The reply to a batch: HTTP status, JSON object, and ``Retry-After`` in seconds.

    ``status`` is None if there was no response: the batch may have arrived.
    ``document`` is empty if the body is not a JSON object.
    """

    status: int | None
    document: Mapping[str, Any]
    retry_after: int | None = None


class SendBatch(Protocol):
    """Sends the body of ``POST /v1/refunds/batch``; raises no error."""

    def __call__(self, body: bytes, token: str) -> BatchReply:
        """Send *body* with the bearer *token*, and return the reply."""


_TIMEOUT = 60.0  # Seconds: longer than gunicorn and the proxy allow a request.
_MAX_REPLY = 8 * 1024 * 1024  # Bytes; the service needs 1 KiB for each refund.


class RefundClient:
    """Sends batches to one service; a redirect would take the token to another host."""

    def __init__(self, url: str) -> None:
        """Check *url*, the address of the service; no connection is opened."""
        # Not above: the help of the command must not wait for them.
        from pydantic import SecretStr

        from backends.http_client import HTTPClient, is_secure

        if not is_secure(url, allow_http=True) or "?" in url or "#" in url:
            raise InvalidInputError(
                "must be an https URL, or http to this host, without a user name and"
                " a query: the token is sent to it",
                field="--url",
            )
        self._client = HTTPClient(
            SecretStr(f"{url.rstrip('/')}/v1/refunds/batch"),
            timeout=_TIMEOUT,
            headers={"Content-Type": "application/json", "Accept": "application/json"},
            max_bytes=_MAX_REPLY,
        )

    def __call__(self, body: bytes, token: str) -> BatchReply:
        """Send *body*, as ``SendBatch``."""
        from backends.http_client import ExchangeError

        headers = {"Authorization": f"Bearer {token}"}
        try:
            response = self._client.exchange("POST", body, headers=headers)
        except ExchangeError:
            return BatchReply(None, {})
        delay = response.retry_after or ""
        return BatchReply(
            response.status,
            _parse(response.body),
            int(delay) if delay.isascii() and delay.isdecimal() else None,
        )


def _parse(body: bytes) -> dict[str, Any]:
    try:
        text = body.decode()
        # The parser recurses: a deep document would end the process.
        document = None if is_deeper(text, MAX_DEPTH) else json.loads(text)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


MAX_ROWS = 500
"""The most refunds of one batch."""

MAX_BYTES = 900_000
"""The most bytes of one batch; the service accepts 1 MiB."""

MAX_FAILURES = 10
"""How often in a row nothing is accepted or refused before the submission ends."""

_MAX_DELAY = 120.0  # Seconds.
_MAX_BACKOFF = 30.0

_OK, _CREATED, _UNAUTHORIZED = 200, 201, 401

# Neither service nor proxy could answer; the same request may succeed later.
_RETRYABLE = frozenset({None, 408, 429, 500, 502, 503, 504})


class RowStatus(StrEnum):
    """What became of a row."""

    ACCEPTED = "accepted"
    ALREADY_ACCEPTED = "already-accepted"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class RowResult:
    """The answer to one row: the ``refund`` as it was then, or the ``problem``."""

    row: Row
    status: RowStatus
    refund: Mapping[str, Any] = field(default_factory=dict)
    problem: Mapping[str, Any] = field(default_factory=dict)


MakeMember = Callable[[Row], Mapping[str, str]]


def plain_member(row: Row) -> Mapping[str, str]:
    """Return the member of a batch for *row*, without a signature."""
    return {"idempotency_key": row.idempotency_key, **row.fields}


class SubmissionStoppedError(Exception):
    """The rest of the rows cannot be submitted now; the message says what to do."""


def submit(
    rows: Sequence[Row],
    send: SendBatch,
    read_token: Callable[[], str],
    *,
    make_member: MakeMember = plain_member,
    report: Callable[[RowResult], object],
    sleep: Callable[[float], object],
) -> None:
    """
    Submit *rows*, and call *report* with the result of each.

    *make_member* returns a row's member of the batch.  It is called, and the token is
    read, for each batch anew: signatures and tokens live for minutes only.

    Raises:
        SubmissionStoppedError: Some rows have no result; submitting all rows again is
            safe.
    """
    pending = deque(rows)
    failures = 0
    while pending:
        batch, body = _take_batch(pending, make_member)
        reply = send(body, read_token())
        results = {} if reply.status in _RETRYABLE else _results(batch, reply)
        retried = [row for row in batch if row.idempotency_key not in results]
        pending.extendleft(reversed(retried))
        for result in results.values():
            report(result)
        failures = 0 if results else failures + 1
        if failures >= MAX_FAILURES:
            raise SubmissionStoppedError(
                f"{_describe(reply)}, {failures} times. Run the command again later; no"
                " refund is accepted twice"
            )
        if retried:
            sleep(_delay(reply, failures))


def _take_batch(
    pending: deque[Row], make_member: MakeMember
) -> tuple[Sequence[Row], bytes]:
    """Take as many rows as fit into one request, at least one; return its body."""
    batch: list[Row] = []
    members: list[bytes] = []
    size = 0
    while pending and len(batch) < MAX_ROWS:
        member = json.dumps(make_member(pending[0]), ensure_ascii=False).encode()
        size += len(member) + 2
        if batch and size > MAX_BYTES:
            break
        members.append(member)
        batch.append(pending.popleft())
    return batch, b'{"refunds": [%s]}' % b", ".join(members)


def _results(batch: Sequence[Row], reply: BatchReply) -> dict[str, RowResult]:
    """Return the final results of *batch* by key; rows to be repeated have none."""
    if reply.status == _UNAUTHORIZED:
        raise SubmissionStoppedError(
            "the service does not accept the token, which may have expired: get a new"
            " one, and run the command again"
        )
    answers = _answers(reply)
    if reply.status != _OK or not _is_about(answers, batch):
        raise SubmissionStoppedError(
            f"{_describe(reply)}. Check --url and the token, and run the command again"
        )
    found = {}
    for row, answer in zip(batch, answers, strict=True):
        result = _result(row, answer)
        if result is not None:
            found[row.idempotency_key] = result
    return found


def _answers(reply: BatchReply) -> Sequence[dict[str, Any]]:
    """Return those results of the reply that are objects."""
    answers = reply.document.get("results")
    found = answers if isinstance(answers, list) else ()
    return [answer for answer in found if isinstance(answer, dict)]


def _is_about(answers: Sequence[dict[str, Any]], batch: Sequence[Row]) -> bool:
    """Return whether *answers* are results for the rows of *batch*, in their order."""
    keys = [answer.get("idempotency_key") for answer in answers]
    return keys == [row.idempotency_key for row in batch]


def _result(row: Row, answer: Mapping[str, Any]) -> RowResult | None:
    status = answer.get("status")
    refund, problem = answer.get("refund"), answer.get("problem")
    if status in {_OK, _CREATED} and isinstance(refund, dict):
        known = RowStatus.ACCEPTED if status == _CREATED else RowStatus.ALREADY_ACCEPTED
        return RowResult(row, known, refund=refund)
    if not isinstance(problem, dict) or status in _RETRYABLE:
        return None
    return RowResult(row, RowStatus.REFUSED, problem=problem)


def _delay(reply: BatchReply, failures: int) -> float:
    """Return how long to wait before the next batch, in seconds."""
    asked = [reply.retry_after or 0]
    for answer in _answers(reply):
        seconds = answer.get("retry_after")
        asked += [seconds] if isinstance(seconds, int) else []
    backoff = min(2.0 ** max(failures - 1, 0), _MAX_BACKOFF)
    # Clients that failed together must not all return together.
    spread = random.uniform(0, backoff / 2)  # noqa: S311  No secret.
    return min(max(backoff, *asked), _MAX_DELAY) + spread


def _describe(reply: BatchReply) -> str:
    if reply.status is None:
        return "the service does not answer"
    if reply.status == _OK:
        problems = [answer.get("problem") for answer in _answers(reply)]
        codes = {each.get("code") for each in problems if isinstance(each, dict)}
        names = printable(", ".join(sorted(map(str, codes))))
        return f"the service answers {names or 'without results'}"
    code, detail = reply.document.get("code"), reply.document.get("detail")
    parts = [str(reply.status), *(str(each) for each in (code, detail) if each)]
    return f"the service answers {printable(': '.join(parts))}"


def printable(text: str) -> str:
    """Return *text* of the service without what could control a terminal."""
    return text if text.isprintable() else ascii(text)


Write = Callable[[RowResult], object]


_COLUMNS: Mapping[str, Callable[[RowResult], Any]] = {
    "line": lambda result: result.row.line,
    "idempotency_key": lambda result: result.row.idempotency_key,
    "reference": lambda result: result.row.reference,
    "status": lambda result: str(result.status),
    "refund_id": lambda result: result.refund.get("id"),
    "refund_status": lambda result: result.refund.get("status"),
    "code": lambda result: result.problem.get("code"),
    "field": lambda result: result.problem.get("field"),
    "detail": lambda result: result.problem.get("detail"),
}


def result_document(result: RowResult) -> dict[str, Any]:
    """Return *result* as JSON; what there is not is None."""
    return {name: read(result) for name, read in _COLUMNS.items()}


@contextmanager
def open_results(path: Path, source: Path) -> Iterator[Write]:
    """Replace the file *path*; yield a function that appends a result to it."""
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
    from api.views.refund_files import safe_cell

    return map(safe_cell, result_document(result).values())
