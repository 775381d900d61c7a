"""``hotwallet secrets``: what is secret on this host, and how old it is."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from api.cli.output import Result, reports


if TYPE_CHECKING:
    from api.container import Container
    from api.health.secrets import FoundSecret


@click.command()
@reports
def secrets(container: Container) -> Result:
    """
    List the secrets of this host, with their ages.

    Run it with the settings of each process: API and workers have different ones.  It
    shows no value, and exits with 1 if one should have been replaced.
    """
    from api.health.secrets import find_secrets

    now = container.ledger_clock()
    found = list(find_secrets(container.environ, container.store.active_key()))
    document = [_document(each, now) for each in found]
    lines = [_line(each, now) for each in found]
    return Result(document, lines, ok=not any(each.is_due(now) for each in found))


def _document(found: FoundSecret, now: datetime) -> dict[str, Any]:
    age = found.age(now)
    return {
        "name": found.secret.name,
        "variable": found.secret.variable or None,
        "place": found.place,
        "ageDays": None if age is None else age.days,
        "replaceAfterDays": found.secret.days,
        "due": found.is_due(now),
        "protects": found.secret.protects,
    }


def _line(found: FoundSecret, now: datetime) -> str:
    secret, age = found.secret, found.age(now)
    days = "of unknown age" if age is None else f"{age.days} days old"
    place = f"{secret.variable}, {found.place}" if secret.variable else found.place
    line = f"{secret.name} ({place}): {days}, replace after {secret.days}"
    return f"{line}; replace it now" if found.is_due(now) else line
