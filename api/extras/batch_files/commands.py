"""``hotwallet refund submit``: request the refunds of a CSV file."""

from __future__ import annotations

import functools
import json
import os
import re
import sys
import time
from base64 import urlsafe_b64decode
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from api.cli.options import confirm, dry_run_option, yes_option
from api.cli.output import json_option, print_result
from api.extras.batch_files.files import Row, read_rows
from api.extras.batch_files.submission import (
    MakeMember,
    RowResult,
    RowStatus,
    SubmissionStoppedError,
    open_results,
    plain_member,
    printable,
    result_document,
    submit,
)
from signer.errors import InvalidInputError


if TYPE_CHECKING:
    from api.extras.batch_files.submission import SendBatch


SOME_REFUSED = 3
"""The exit status if the service refused some of the refunds."""

_TOKEN = re.compile(r"[!-~]{1,8192}")

_MOST_SHOWN = 20  # Refused rows.


@click.command("submit")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--url",
    envvar="HOTWALLET_URL",
    default="http://127.0.0.1:8080",
    show_default=True,
    show_envvar=True,
    help="The address of the service.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    envvar="HOTWALLET_TOKEN_FILE",
    show_envvar=True,
    help="A file with the bearer token, read again for each batch; or set"
    " HOTWALLET_TOKEN.",
)
@click.option(
    "--results",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Write the result of each row to this file, .csv or .jsonl.",
)
@click.option(
    "--request-key",
    metavar="ID=FILE",
    help="Sign each refund with the private key in FILE, which has this id in the"
    " tenants file.",
)
@yes_option
@dry_run_option
@json_option
def submit_file(
    *,
    file: Path,
    url: str,
    token_file: Path | None,
    results: Path | None,
    request_key: str | None,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """
    Request the refunds of the CSV file FILE, in batches.

    The columns are payment_session_id, network, token, recipient and amount, and
    optionally reason, reference and idempotency_key.  The whole file is checked before
    anything is sent.  The key is the reference by default, so to run the command again
    is safe: each refund is accepted once.

    Exits with 0 if all refunds are accepted, with 3 if some were refused, with 2 if the
    file is not valid, and with 1 if some have no answer: run it again.

    Example: hotwallet refund submit refunds.csv --token-file token --results done.csv
    """
    rows = read_rows(file)
    send = _open_service(url)
    if dry_run:
        document = {"status": "would-submit", "refunds": len(rows)}
        print_result(document, _describe(rows), as_json=as_json)
        return
    read_token = _token_reader(token_file)
    token = read_token()
    make_member = plain_member if request_key is None else _open_key(request_key, token)
    writer = nullcontext(_ignore) if results is None else open_results(results, file)
    if not yes:
        confirm("\n".join([*_describe(rows), f"Submit them to {url}?"]))

    found: list[RowResult] = []
    stopped: str | None = None
    with (
        writer as write,
        click.progressbar(
            length=len(rows),
            label="Submitting",
            file=sys.stderr,
            hidden=not sys.stderr.isatty(),
            show_pos=True,
        ) as bar,
    ):

        def report(result: RowResult) -> None:
            write(result)
            found.append(result)
            bar.update(1)

        try:
            submit(
                rows,
                send,
                read_token,
                make_member=make_member,
                report=report,
                sleep=time.sleep,
            )
        except (SubmissionStoppedError, click.UsageError) as e:
            stopped = str(e)  # Also if the token file can no longer be read.
        except KeyboardInterrupt:
            stopped = "interrupted; run the command again"
    counts = _counts(rows, found)
    document = {
        "status": "stopped" if stopped else "submitted",
        "refunds": len(rows),
        **counts,
        "results": [result_document(result) for result in found],
    }
    print_result(document, _summary(counts, found), as_json=as_json)
    if stopped is not None:
        click.echo(f"stopped: {stopped}", err=True)
        sys.exit(1)
    if counts["refused"]:
        sys.exit(SOME_REFUSED)


def _open_service(url: str) -> SendBatch:
    from api.extras.batch_files.submission import RefundClient

    try:
        return RefundClient(url)
    except InvalidInputError as e:
        raise click.BadParameter(str(e), param_hint="--url") from None


def _open_key(option: str, token: str) -> MakeMember:
    from api.extras.batch_files.request_signing import RequestSigner

    key_id, _, path = option.partition("=")
    if not (key_id and path):
        raise click.UsageError("--request-key must be ID=FILE")
    return RequestSigner(Path(path), key_id, _audience(token))


def _audience(token: str) -> str:
    """Return the service that *token* is for, which a signature must name."""
    payload = token.split(".")[1:2]
    with suppress(ValueError):  # Also of Base64 and of JSON.
        claims = json.loads(urlsafe_b64decode("".join(payload) + "=="))
        audience = claims.get("aud") if isinstance(claims, dict) else None
        if isinstance(audience, list) and len(audience) == 1:
            (audience,) = audience
        if isinstance(audience, str):
            return audience
    raise click.UsageError(
        "--request-key needs a token that names its service: a JWT with one `aud`"
    )


def _token_reader(path: Path | None) -> Callable[[], str]:
    if path is not None:
        return functools.partial(_read_token, path)
    token = _require_token(os.environ.get("HOTWALLET_TOKEN", ""))
    return lambda: token


def _read_token(path: Path) -> str:
    try:
        return _require_token(path.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError):
        raise click.UsageError("the token file cannot be read as text") from None


def _require_token(token: str) -> str:
    if not _TOKEN.fullmatch(token):
        raise click.UsageError(
            "there is no bearer token: write one to a file and name it with"
            " --token-file, or set HOTWALLET_TOKEN"
        )
    return token


def _ignore(result: RowResult) -> None:
    """Keep no result."""


def _describe(rows: Sequence[Row]) -> Iterator[str]:
    """Yield how many refunds and how much each token's refunds pay together."""
    yield f"{len(rows)} refunds:"
    sums: dict[tuple[str, str], list[Decimal]] = defaultdict(list)
    for row in rows:
        of_token = row.fields["network"], row.fields["token"]
        sums[of_token].append(Decimal(row.fields["amount"]))
    for (network, token), amounts in sorted(sums.items()):
        yield f"  {len(amounts)} on {network}: {sum(amounts)} {token}"


def _counts(rows: Sequence[Row], found: Sequence[RowResult]) -> dict[str, int]:
    counts = {
        str(status).replace("-", "_"): sum(each.status is status for each in found)
        for status in RowStatus
    }
    return {**counts, "without_answer": len(rows) - len(found)}


def _summary(counts: dict[str, int], found: Sequence[RowResult]) -> Iterator[str]:
    yield (
        f"{counts['accepted']} accepted, {counts['already_accepted']} accepted before,"
        f" {counts['refused']} refused, {counts['without_answer']} without an answer"
    )
    refused = [each for each in found if each.status is RowStatus.REFUSED]
    for result in refused[:_MOST_SHOWN]:
        yield f"  line {result.row.line}: {_reason(result.problem)}"
    if len(refused) > _MOST_SHOWN:
        yield f"  and {len(refused) - _MOST_SHOWN} more; --results writes them all"


def _reason(problem: Any) -> str:
    names = ("code", "field", "detail")
    return printable(": ".join(str(problem[n]) for n in names if problem.get(n)))
