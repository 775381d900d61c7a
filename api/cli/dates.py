"""Dates and times on the command line, in UTC."""

import re
from datetime import UTC, datetime, timedelta

import click


_DAY = timedelta(days=1)
_HAS_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}")


def read_moment(
    _: click.Context, parameter: click.Parameter, text: str | None
) -> datetime | None:
    """
    Return the time that an option's *text* means now; None for None.

    Raises:
        click.BadParameter: *text* is malformed.
    """
    if text is None:
        return None
    moment = parse_moment(text, datetime.now(UTC))
    if moment is None:
        raise click.BadParameter(
            f"{text!r} is not a date: use 2026-01-31, 2026-01-31T12:00Z, today,"
            " yesterday or now",
            param=parameter,
        )
    return moment


def parse_moment(text: str, now: datetime) -> datetime | None:
    """
    Return the time that *text* means at *now*; None if it is malformed.

    A date means 00:00 of that day, and a time without a zone is in UTC.

    >>> parse_moment("yesterday", datetime(2026, 1, 2, 3, tzinfo=UTC)).isoformat()
    '2026-01-01T00:00:00+00:00'
    """
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    names = {"now": now, "today": today, "yesterday": today - _DAY}
    if text in names:
        return names[text]
    if not (_HAS_TIME.match(text) or re.fullmatch(r"\d{4}-\d{2}-\d{2}", text)):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
