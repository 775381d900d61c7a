"""Each tenant's share of the device that signs messages."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from api.principal import tenant_of_thread
from signer.errors import RateLimitedError
from signer.policy.facts import Caller


_SECONDS = 10.0
"""How long a message waits for the other messages of its tenant."""


class SignatureShares:
    """
    Bounds how often tenants use the device; threads share an instance.

    If several tenants share the process, the messages of each are signed one after
    another.  The device serves calls in the order of their arrival, so a tenant waits
    for one call of each other tenant.
    """

    def __init__(self, count: Callable[[str], None]) -> None:
        """Call *count* with the tenant of each signature; it may raise an error."""
        self._count = count
        self._turns = dict[str, Lock]()

    @contextmanager
    def take_turn(self, caller: Caller) -> Iterator[None]:
        """
        Count a signature for *caller*, and wait for the turn to make it.

        Raises:
            RateLimitedError: There were too many signatures, or too many wait.
        """
        if caller.tenant is not None:
            self._count(caller.tenant)
        shared = tenant_of_thread.get()
        if shared is None:
            yield
            return
        turn = self._turns.setdefault(shared, Lock())
        if not turn.acquire(timeout=_SECONDS):
            problem = "too many messages of the tenant wait for the device; wait"
            raise RateLimitedError(problem, retry_after=1)
        try:
            yield
        finally:
            turn.release()
