"""``hotwallet explain-code``: what a code means, and what to do about it."""

from collections.abc import Iterator, Mapping, Sequence

import click

from api.cli.output import Result, prints
from api.views.codes import load_codes
from signer.errors import NotFoundError


_KINDS = {
    "refusal": "guard refusal",
    "error": "error",
    "http": "HTTP error",
    "alert": "alert",
    "failure": "reason of a refund",
    "difference": "difference between ledger and chain",
}


@click.command("explain-code")
@click.argument("code", required=False)
@prints
def explain_code(code: str | None) -> Result:
    """
    Explain CODE: a refusal of the guard, an error, the reason of a refund that was not
    paid, an alert, or a difference between ledger and chain; without CODE, list all.

    Example: hotwallet explain-code kms-not-configured
    """
    codes = load_codes()
    if code is None:
        lines = (f"{each['code']:26} {each['title']}" for each in codes)
        return Result(codes, lines)
    entries = [each for each in codes if each["code"] == code.strip().lower()]
    if not entries:
        raise NotFoundError("there is no such code; omit CODE to list all codes")
    return Result(entries, _format_entries(entries))


def _format_entries(entries: Sequence[Mapping[str, str]]) -> Iterator[str]:
    for entry in entries:
        yield f"{entry['code']} ({_KINDS[entry['kind']]}): {entry['title']}"
        yield f"  Meaning: {entry['meaning']}"
        yield f"  Cure:    {entry['cure']}"
