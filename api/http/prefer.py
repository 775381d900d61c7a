"""``Prefer: wait=N`` (RFC 7240): wait for the refund's final status."""

import re

from falcon import Request, Response

from signer.errors import InvalidInputError
from signer.refunds.service import MAX_WAIT_SECONDS


_WAIT = re.compile(r"wait\s*=\s*\"?([0-9]{1,6})\"?", re.IGNORECASE)


def preferred_wait(req: Request) -> float | None:
    """
    Return how many seconds the client prefers to wait, at most 20.

    None means that the client has no such preference.  Others are ignored (RFC 7240).

    Raises:
        InvalidInputError: The header has the preference twice.
    """
    header = req.get_header("Prefer") or ""
    preferences = (part.split(";")[0].strip() for part in header.split(","))
    waits = [match for part in preferences if (match := _WAIT.fullmatch(part))]
    if not waits:
        return None
    if len(waits) > 1:
        raise InvalidInputError("must have wait=N once", field="Prefer")
    return min(float(waits[0].group(1)), MAX_WAIT_SECONDS)


def apply_wait(resp: Response, seconds: float | None) -> float:
    """Return how long to wait, and set the header ``Preference-Applied``."""
    if seconds is None:
        return 0.0
    resp.set_header("Preference-Applied", f"wait={seconds:.0f}")
    return seconds
