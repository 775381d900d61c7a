"""``hotwallet explain-code``: what a code means, and what to do about it."""

import tomllib
from collections.abc import Iterator
from importlib.resources import files

import click

from api.cli.output import Result, prints
from signer.errors import NotFoundError


_KINDS = {
    "refusal": "guard refusal",
    "error": "error",
    "alert": "alert",
    "difference": "difference between ledger and chain",
}


def load_codes() -> list[dict[str, str]]:
    """Return each code with its kind, title, meaning and cure."""
    text = files("api.cli").joinpath("codes.toml").read_text(encoding="utf-8")
    return [
        {"code": code, "kind": kind, **entry}
        for kind, entries in tomllib.loads(text).items()
        for code, entry in entries.items()
    ]


@click.command("explain-code")
@click.argument("code", required=False)
@prints
def explain_code(code: str | None) -> Result:
    """
    Explain CODE: a refusal of the guard, an error, an alert, or a difference between
    ledger and chain; without CODE, list all.

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


def _format_entries(entries: list[dict[str, str]]) -> Iterator[str]:
    for entry in entries:
        yield f"{entry['code']} ({_KINDS[entry['kind']]}): {entry['title']}"
        yield f"  Meaning: {entry['meaning']}"
        yield f"  Cure:    {entry['cure']}"
