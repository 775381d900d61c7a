"""Which request gets a thread next: tenants take turns, and one has half of them."""

import re
import time
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Generic, NamedTuple, TypeVar

from api.auth.jwt_verifier import read_parties
from api.request_context import TENANT
from signer.config.tenants import TenantRegistry
from signer.errors import AuthenticationError, UnknownTenantError


_T = TypeVar("_T")

WSGI = Callable[[dict[str, Any], Any], Iterable[bytes]]

_AUTHORIZATION = re.compile(rb"\r\nauthorization:[ \t]*([^\r\n]*)\r\n", re.IGNORECASE)
_TOKENS = 10_000  # Of 32 bytes each.
_SECONDS = 2.0  # For which a tenant without requests still has its part.
_AVERAGE_OF = 8  # Requests, about.
_AT_ONCE = 0.05  # Seconds of CPU time that the running requests of a tenant take.


class Queue(NamedTuple):
    """
    Where a request waits: in a tenant's queue, or in that of the tokens that claim it.

    A token that this process has not verified is in the second one, so a client that
    forges tokens delays only the first request with each new token.  *tenant* is None
    if the token claims none that exists.
    """

    tenant: str | None
    is_verified: bool


class TokenTenants:
    """
    The tenants of the tokens that this process has verified.

    It decides only who waits for whom.  If a token proves to be valid, its tenant pays
    for the request.
    """

    def __init__(self, app: WSGI, registry: TenantRegistry) -> None:
        self._app, self._registry = app, registry
        self._tenants = OrderedDict[bytes, str]()
        self._seen = set[str]()

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        """Answer a request, and remember the tenant that ``TENANT`` then names."""
        answer = self._app(environ, start)
        tenant, token = environ.get(TENANT), environ.get("HTTP_AUTHORIZATION")
        if tenant is not None and token is not None:
            if not self.are_several():
                self._seen.add(tenant)
            self._tenants[_digest(token)] = tenant
            if len(self._tenants) > _TOKENS:
                self._tenants.popitem(last=False)
        return answer

    def are_several(self) -> bool:
        """Return whether there were requests of two tenants."""
        return len(self._seen) > 1

    def find(self, token: str) -> str | None:
        """Return the tenant of the header that ``read_token`` returned, if verified."""
        return self._tenants.get(_digest(token))

    def queue(self, token: str) -> Queue:
        tenant = self.find(token)
        return Queue(tenant or self._claimed(token), tenant is not None)

    def _claimed(self, token: str) -> str | None:
        """Return the tenant that an unverified *token* claims, if it exists."""
        # Without a file each name is a tenant, and a forger could claim very many.
        if self._registry.tenants is None:
            return None
        try:
            return self._registry.find(*read_parties(token))
        except (AuthenticationError, UnknownTenantError):
            return None


def read_token(head: bytes) -> str:
    """Return the ``Authorization`` header of *head*, the first bytes of a request."""
    found = _AUTHORIZATION.search(head)
    return "" if found is None else found[1].decode("latin-1")


def _digest(token: str) -> bytes:
    return sha256(token.strip().encode("latin-1")).digest()


@dataclass(slots=True)
class _Account:
    """When a tenant was seen last, and when it may go on."""

    seen: float
    ready: float = 0.0


class Turns(Generic[_T]):
    """
    The requests that wait for one of *threads*; one thread calls the methods.

    If tenants *are_several*, each has at most half of the threads, fewer if its
    requests compute for long, and its requests that wait are at most four times the
    threads.  With new tokens it may have another quarter.  The tenants of the last two
    seconds share the processor in equal parts: each request is charged the average CPU
    time of its tenant's requests when it starts, and the rest when it ends.
    """

    def __init__(
        self,
        threads: int,
        are_several: Callable[[], bool],
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._threads, self._are_several = threads, are_several
        self._timer = timer
        self._waiting = OrderedDict[Queue, deque[_T]]()
        self._running = Counter[Queue]()
        self._accounts = OrderedDict[Queue, _Account]()
        # The average CPU time of a request, of each tenant that was seen.
        self._average = defaultdict[str | None, float](float)

    def add(self, queue: Queue, request: _T) -> bool:
        """Let *request* wait in *queue* for its turn; return whether it may."""
        requests = self._waiting.setdefault(queue, deque())
        if len(requests) >= 4 * self._threads and self._are_several():
            return False
        self._see(queue)
        requests.append(request)
        return True

    def take(self) -> tuple[Queue, _T] | None:
        """Return the queue and the request that get a thread, if there is one."""
        if self._running.total() >= self._threads:
            return None
        now = self._timer()
        for queue in self._may_start():
            if self._ready(queue) <= now:
                account = self._accounts[queue]
                account.ready = now
                self._charge(account, self._average[queue.tenant])
                self._running[queue] += 1
                return queue, self._pop(queue)
        return None

    def seconds_left(self) -> float | None:
        """Return when ``take`` may have a request if nothing else happens."""
        if self._running.total() >= self._threads:
            return None
        ready = [self._ready(each) for each in self._may_start()]
        return max(0.0, min(ready) - self._timer()) if ready else None

    def leave(self, queue: Queue, payer: str | None, seconds: float) -> None:
        """
        End the turn of a request of *queue*, which took *seconds* of CPU time.

        *payer* is charged for it: the tenant that the request proved to be of.
        """
        self._running[queue] -= 1
        if not self._running[queue]:
            del self._running[queue]  # Tenants come and go.
        self._charge(self._see(queue), -self._average[queue.tenant])
        self._charge(self._see(Queue(payer, True) if payer else queue), seconds)
        self._average[payer] += (seconds - self._average[payer]) / _AVERAGE_OF

    def _may_start(self) -> Iterator[Queue]:
        """Yield what waits and may have another thread, the next one first."""
        if not self._are_several():
            return iter(self._waiting)
        return (
            each for each in self._waiting if self._running[each] < self._most(each)
        )

    def _most(self, queue: Queue) -> int:
        """Return how many requests of *queue* may run at once."""
        is_new = queue.tenant is not None and not queue.is_verified
        most = (self._threads + 1) // (4 if is_new else 2)
        seconds = self._average[queue.tenant]
        return max(1, min(most, int(_AT_ONCE / seconds)) if seconds else most)

    def _ready(self, queue: Queue) -> float:
        """Return when *queue* may go on; new tokens of a tenant wait for both."""
        known = self._accounts.get(queue._replace(is_verified=True))
        return max(self._accounts[queue].ready, known.ready if known else 0.0)

    def _charge(self, account: _Account, seconds: float) -> None:
        """Let the other tenants have their part of the processor as well."""
        if self._are_several():
            # Forged tokens can claim many tenants: all unverified ones are one part.
            verified = sum(each.is_verified for each in self._accounts)
            parts = verified + (verified < len(self._accounts))
            account.ready += seconds * parts

    def _see(self, queue: Queue) -> _Account:
        """Return the account of *queue*, and forget those without requests."""
        now = self._timer()
        account = self._accounts.setdefault(queue, _Account(now))
        account.seen = now
        self._accounts.move_to_end(queue)
        while (oldest := next(iter(self._accounts.items())))[1].seen < now - _SECONDS:
            name, idle = oldest
            del self._accounts[name]
            if self._running[name] or name in self._waiting or idle.ready > now:
                idle.seen = now
                self._accounts[name] = idle
        return account

    def _pop(self, queue: Queue) -> _T:
        """Remove the first request of *queue*, whose next turn is the last one."""
        requests = self._waiting.pop(queue)
        request = requests.popleft()
        if requests:
            self._waiting[queue] = requests
        return request
