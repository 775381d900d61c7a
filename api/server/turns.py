"""Which request gets a thread next: tenants take turns, and one has half of them."""

import re
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Any, Generic, TypeVar

from api.request_context import TENANT


_T = TypeVar("_T")

WSGI = Callable[[dict[str, Any], Any], Iterable[bytes]]

_AUTHORIZATION = re.compile(rb"\r\nauthorization:[ \t]*([^\r\n]*)\r\n", re.IGNORECASE)
_TOKENS = 10_000  # Of 32 bytes each.


class TokenTenants:
    """
    The tenants of the tokens that this process has verified.

    It decides only who waits for whom.  A token that is not known yet, or is invalid,
    has no tenant: all such requests share one turn.
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
            self._tenants[sha256(token.strip().encode("latin-1")).digest()] = tenant
            if len(self._tenants) > _TOKENS:
                self._tenants.popitem(last=False)
        return answer

    def are_several(self) -> bool:
        """Return whether there were requests of two tenants."""
        return len(self._seen) > 1

    def find(self, head: bytes) -> str | None:
        """Return the tenant whose token *head*, the first bytes of a request, has."""
        found = _AUTHORIZATION.search(head)
        if found is None:
            return None
        return self._tenants.get(sha256(found[1].strip()).digest())


class Turns(Generic[_T]):
    """
    The requests that wait for one of *threads*; one thread calls the methods.

    If tenants *are_several*, each has at most half of the threads, and its requests
    that wait are at most four times the threads.
    """

    def __init__(self, threads: int, are_several: Callable[[], bool]) -> None:
        self._threads, self._are_several = threads, are_several
        self._waiting = OrderedDict[str | None, deque[_T]]()
        self._running = Counter[str | None]()

    def add(self, tenant: str | None, request: _T) -> bool:
        """Let *request* of *tenant* wait for its turn; return whether it may."""
        requests = self._waiting.setdefault(tenant, deque())
        if len(requests) >= 4 * self._threads and self._are_several():
            return False
        requests.append(request)
        return True

    def take(self) -> tuple[str | None, _T] | None:
        """Return the tenant and the request that get a thread, if there is one."""
        if self._running.total() >= self._threads:
            return None
        at_most = (self._threads + 1) // 2 if self._are_several() else self._threads
        for tenant in self._waiting:
            if self._running[tenant] < at_most:
                self._running[tenant] += 1
                return tenant, self._pop(tenant)
        return None

    def _pop(self, tenant: str | None) -> _T:
        """Remove the first request of *tenant*, whose next turn is the last one."""
        requests = self._waiting.pop(tenant)
        request = requests.popleft()
        if requests:
            self._waiting[tenant] = requests
        return request

    def leave(self, tenant: str | None) -> None:
        """End the turn of a request of *tenant*: its thread is free."""
        self._running[tenant] -= 1
        if not self._running[tenant]:
            del self._running[tenant]  # Tenants come and go.
