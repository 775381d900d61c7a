"""The JWK Set that the token issuer publishes."""

from collections.abc import Callable


class KeySetError(Exception):
    """No usable JWK Set was fetched; the message is a reason code for the log."""


FetchKeySet = Callable[[], bytes]
"""Returns the JSON document of a JWK Set (RFC 7517), or raises ``KeySetError``."""
