"""Values of documents; an auditor, who has no pydantic, needs them too."""

from datetime import UTC, datetime
from typing import Any


def timestamp(moment: datetime) -> str:
    """Return *moment* as RFC 3339; always UTC and of one length, so that it sorts."""
    utc = moment.astimezone(UTC)
    return utc.isoformat(timespec="microseconds").replace("+00:00", "Z")


def fields(source: object, *names: str) -> dict[str, Any]:
    """Return the attributes *names* of *source*, with times as ``timestamp``."""
    values = {name: getattr(source, name) for name in names}
    return {
        name: timestamp(value) if isinstance(value, datetime) else value
        for name, value in values.items()
    }
