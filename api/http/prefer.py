"""``Prefer: wait=N`` (RFC 7240): answer later, with more to say."""

import re

import falcon

from signer.errors import InvalidInputError
from signer.refunds.service import MAX_WAIT_SECONDS


_WAIT = re.compile(r"wait\s*=\s*\"?([0-9]{1,6})\"?", re.IGNORECASE)


def preferred_wait(req: falcon.Request) -> float | None:
    """
    Return for how many seconds the client wants to wait for the end, at most 20.

    None means that it does not say.  What else it prefers is ignored, as RFC 7240 has
    it.

    Raises:
        InvalidInputError: It names the preference twice.
    """
    given = req.get_header("Prefer") or ""
    preferences = (part.split(";")[0].strip() for part in given.split(","))
    waits = [found for part in preferences if (found := _WAIT.fullmatch(part))]
    if not waits:
        return None
    if len(waits) > 1:
        raise InvalidInputError("must ask to wait once", field="Prefer")
    return min(float(waits[0].group(1)), MAX_WAIT_SECONDS)


def applied(resp: falcon.Response, seconds: float | None) -> float:
    """Return how long to wait, and let ``Preference-Applied`` say so."""
    if seconds is None:
        return 0.0
    resp.set_header("Preference-Applied", f"wait={seconds:.0f}")
    return seconds
