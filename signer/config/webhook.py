"""The webhook of a tenant, as the tenants file has it."""

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator

from signer.config.toml_file import StrictModel, as_tuple
from signer.event_types import EventType


_VISIBLE_ASCII = re.compile(r"[!-~]{1,2000}")


def _url(value: str) -> str:
    """Return *value*; a ``ValueError``, which does not quote it, if it is no URL."""
    try:
        parts = urlsplit(value)
        is_usable = (
            parts.scheme in {"http", "https"}
            and bool(parts.hostname)
            and parts.port != 0
            and not (parts.username or parts.password or parts.fragment)
            and _VISIBLE_ASCII.fullmatch(value)
        )
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ValueError(
            "must be an https URL with a host, without user name, password and fragment"
        )
    return value


def _event_type(value: object) -> object:
    if isinstance(value, str) and value in set(EventType):
        return EventType(value)
    raise ValueError(f"must be one of {', '.join(EventType)}")


def _path(value: object) -> object:
    return Path(value) if isinstance(value, str) and value else value


class Webhook(StrictModel):
    """
    Where the events of a tenant are sent.

    ``url`` is recorded in the audit log with the rest of the configuration, so it must
    hold no secret.  ``events`` are the types to send; empty means all.  Each line of
    ``secret_file`` is a secret of Standard Webhooks (``whsec_...``), with which events
    are signed in addition to the key of the service.
    """

    url: Annotated[str, AfterValidator(_url)]
    secret_file: Annotated[Path, BeforeValidator(_path)] | None = None
    events: Annotated[
        tuple[Annotated[EventType, BeforeValidator(_event_type)], ...],
        BeforeValidator(as_tuple),
    ] = ()

    @property
    def is_https(self) -> bool:
        """Whether what is sent is encrypted."""
        return urlsplit(self.url).scheme == "https"

    def wants(self, type_: EventType) -> bool:
        """Return whether events of *type_* are sent."""
        return not self.events or type_ in self.events
