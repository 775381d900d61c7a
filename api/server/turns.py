"""Which request gets a thread next: tenants take turns, and one has half of them."""

import re
import time
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Generic, TypeVar

from api.request_context import TENANT


_T = TypeVar("_T")

WSGI = Callable[[dict[str, Any], Any], Iterable[bytes]]

_AUTHORIZATION = re.compile(rb"\r\nauthorization:[ \t]*([^\r\n]*)\r\n", re.IGNORECASE)
_TOKENS = 10_000  # Of 32 bytes each.
_SECONDS = 2.0  # For which a tenant without requests still has its part.
_AVERAGE_OF = 8  # Requests, about.
_AT_ONCE = 0.05  # Seconds of CPU time that the running requests of a tenant take.


class TokenTenants:
    """
    The tenants of the tokens that this process has verified.

    It decides only who waits for whom.  A token that is not known yet, or is invalid,
    has no tenant: all such requests share one turn.  If a token proves to be valid, its
    tenant pays for the request.
    """

    def __init__(self, app: WSGI) -> None:
        self._app = app
        self._tenants = OrderedDict[bytes, str]()
        self._seen = set[str]()

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        """Answer a request, and remember the tenant that ``TENANT`` then names."""
        answer = self._app(environ, start)
        tenant, token = environ.get(TENANT), environ.get("HTTP_AUTHORIZATION")
        if tenant is not None and token is not None:
            if not self.are_several():
                self._seen.add(tenant)
            self._tenants[_digest(token.encode("latin-1"))] = tenant
            if len(self._tenants) > _TOKENS:
                self._tenants.popitem(last=False)
        return answer

    def are_several(self) -> bool:
        """Return whether there were requests of two tenants."""
        return len(self._seen) > 1

    def find(self, token: bytes | None) -> str | None:
        """Return the tenant of the token that ``read_token`` returned."""
        return None if token is None else self._tenants.get(token)


def read_token(head: bytes) -> bytes | None:
    """Return the digest of the token in *head*, the first bytes of a request."""
    found = _AUTHORIZATION.search(head)
    return None if found is None else _digest(found[1])


def _digest(token: bytes) -> bytes:
    return sha256(token.strip()).digest()


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
    threads.  The tenants of the last two seconds share the processor in equal parts:
    each request is charged the average CPU time of its tenant's requests when it
    starts, and the rest when it ends.
    """

    def __init__(
        self,
        threads: int,
        are_several: Callable[[], bool],
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._threads, self._are_several = threads, are_several
        self._timer = timer
        self._waiting = OrderedDict[str | None, deque[_T]]()
        self._running = Counter[str | None]()
        self._accounts = OrderedDict[str | None, _Account]()
        # The average CPU time of a request, of each tenant that was seen.
        self._average = defaultdict[str | None, float](float)

    def add(self, tenant: str | None, request: _T) -> bool:
        """Let *request* of *tenant* wait for its turn; return whether it may."""
        requests = self._waiting.setdefault(tenant, deque())
        if len(requests) >= 4 * self._threads and self._are_several():
            return False
        self._see(tenant)
        requests.append(request)
        return True

    def take(self) -> tuple[str | None, _T] | None:
        """Return the tenant and the request that get a thread, if there is one."""
        if self._running.total() >= self._threads:
            return None
        now = self._timer()
        for tenant in self._may_start():
            account = self._accounts[tenant]
            if account.ready <= now:
                account.ready = now
                self._charge(account, self._average[tenant])
                self._running[tenant] += 1
                return tenant, self._pop(tenant)
        return None

    def seconds_left(self) -> float | None:
        """Return when ``take`` may have a request if nothing else happens."""
        if self._running.total() >= self._threads:
            return None
        ready = [self._accounts[each].ready for each in self._may_start()]
        return max(0.0, min(ready) - self._timer()) if ready else None

    def leave(self, tenant: str | None, payer: str | None, seconds: float) -> None:
        """
        End the turn of a request of *tenant*, which took *seconds* of CPU time.

        *payer* is charged for it: the tenant that the request proved to be of.
        """
        self._running[tenant] -= 1
        if not self._running[tenant]:
            del self._running[tenant]  # Tenants come and go.
        self._charge(self._see(tenant), -self._average[tenant])
        self._charge(self._see(payer), seconds)
        self._average[payer] += (seconds - self._average[payer]) / _AVERAGE_OF

    def _may_start(self) -> Iterator[str | None]:
        """Yield whose requests wait and may have another thread, the next one first."""
        if not self._are_several():
            return iter(self._waiting)
        return (
            each for each in self._waiting if self._running[each] < self._most(each)
        )

    def _most(self, tenant: str | None) -> int:
        """Return how many requests of *tenant* may run at once."""
        half = (self._threads + 1) // 2
        seconds = self._average[tenant]
        return max(1, min(half, int(_AT_ONCE / seconds))) if seconds else half

    def _charge(self, account: _Account, seconds: float) -> None:
        """Let the other tenants have their part of the processor as well."""
        if self._are_several():
            account.ready += seconds * len(self._accounts)

    def _see(self, tenant: str | None) -> _Account:
        """Return the account of *tenant*, and forget those without requests."""
        now = self._timer()
        account = self._accounts.setdefault(tenant, _Account(now))
        account.seen = now
        self._accounts.move_to_end(tenant)
        while (oldest := next(iter(self._accounts.items())))[1].seen < now - _SECONDS:
            name, idle = oldest
            del self._accounts[name]
            if self._running[name] or name in self._waiting or idle.ready > now:
                idle.seen = now
                self._accounts[name] = idle
        return account

    def _pop(self, tenant: str | None) -> _T:
        """Remove the first request of *tenant*, whose next turn is the last one."""
        requests = self._waiting.pop(tenant)
        request = requests.popleft()
        if requests:
            self._waiting[tenant] = requests
        return request
