"""Tokens that were verified, so that repeated requests do not verify them again."""

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from threading import Lock

from api.auth.verification_keys import VerificationKey
from api.principal import Principal


MAX_TOKENS = 1024
"""How many tokens a process remembers; each takes about a kilobyte."""


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """
    What a token with a valid signature says, and the key that verified it.

    The times are those of its claims, in seconds since 1970.
    """

    principal: Principal
    kid: str | None
    key: VerificationKey
    valid_from: int
    expires_at: int


class VerifiedTokens:
    """
    The last verified tokens of one process.  Threads share it.

    A token is remembered by its SHA-256, so that the process keeps no bearer token.
    Being remembered is no permission: its times, and whether its key is still trusted,
    are for the caller to check.
    """

    def __init__(self) -> None:
        self._tokens: OrderedDict[bytes, VerifiedToken] = OrderedDict()
        self._lock = Lock()

    def find(self, token: str) -> VerifiedToken | None:
        """Return what was remembered of *token*."""
        with self._lock:
            return self._tokens.get(_digest(token))

    def remember(self, token: str, verified: VerifiedToken) -> None:
        """Remember *token*; forget the oldest ones of more than ``MAX_TOKENS``."""
        with self._lock:
            self._tokens[_digest(token)] = verified
            while len(self._tokens) > MAX_TOKENS:
                self._tokens.popitem(last=False)

    def forget(self, token: str) -> None:
        """Forget *token*."""
        with self._lock:
            self._tokens.pop(_digest(token), None)


def _digest(token: str) -> bytes:
    return sha256(token.encode()).digest()
