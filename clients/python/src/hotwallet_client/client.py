# Generated from async_client.py by `make clients`: change that instead.
"""The client: a method for each operation of the refund API."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, cast

import httpx

from hotwallet_client.errors import ApiError, NotFinalError, UnansweredError
from hotwallet_client.models import (
    BatchMember,
    BatchResult,
    BatchResults,
    EventList,
    Explanation,
    Network,
    NetworkList,
    Preview,
    Refund,
    RefundList,
    RefundRequest,
    Token,
    TokenList,
    WebhookKeys,
)
from hotwallet_client.requests import FINAL, new_idempotency_key, path_of, prefer
from hotwallet_client.retries import LOST, Retries, retry_after, should_repeat


_LONGEST_WAIT = 20
_POLL_SECONDS = 3.0


class HotWallet:
    """
    A client of one service, for any number of threads.

    Each call repeats its request after lost answers and temporary errors, until the
    deadline of *retries*.  Every method raises ``ApiError`` if the service refuses the
    request, and ``UnansweredError`` if there is no answer in time.
    """

    def __init__(
        self,
        base_url: str,
        token: str | Callable[[], str],
        *,
        retries: Retries | None = None,
        timeout: float = 30.0,
        http: httpx.Client | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """
        Store the parts; send nothing.

        *token* is a JWT, or a function that returns a current one and is
        called for each attempt: tokens live for minutes.  *timeout* is for one attempt,
        in seconds.  *http* may have a proxy, client certificates, or an ``auth`` that
        signs requests.  *sleep* is for tests.
        """
        url = httpx.URL(base_url)
        if url.scheme not in {"http", "https"} or not url.host:
            raise ValueError("base_url must begin with https://")
        self._base = str(url).rstrip("/")
        self._token = token
        self._retries = retries or Retries()
        self._timeout = timeout
        self._http = http or httpx.Client()
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, also those of *http*."""
        self._http.close()

    def create_refund(
        self,
        request: RefundRequest,
        *,
        idempotency_key: str | None = None,
        wait: int = 0,
    ) -> Refund:
        """
        Create a refund, once; the answer says that it is accepted, not that it is paid.

        The same key is sent with each repetition.  Pass one that you have stored, so
        that a restarted program repeats the request and does not make another one.
        *wait* is how many seconds the answer waits for the final status, up to 20.
        """
        key = idempotency_key or new_idempotency_key()
        headers = {"Idempotency-Key": key, **prefer(wait)}
        found = self._call("POST", "/v1/refunds", request, headers=headers, wait=wait)
        return cast("Refund", found.json())

    def create_refunds(self, members: Sequence[BatchMember]) -> list[BatchResult]:
        """
        Create up to 500 refunds; return a result for each, in their order.

        Members with a temporary error are repeated until the deadline.  Look at each
        result: ``refund`` if it was accepted, or else ``problem``.  After an error
        repeat the call: no member is paid twice.
        """
        results: dict[int, BatchResult] = {}
        left = dict(enumerate(members))
        until = self._retries.clock() + self._retries.deadline
        count = 0
        while left:
            body = {"refunds": [*left.values()]}
            answer = self._call("POST", "/v1/refunds/batch", body)
            found = cast("BatchResults", answer.json())["results"]
            results |= dict(zip(left, found, strict=True))
            left = {n: it for n, it in left.items() if "retry_after" in results[n]}
            at_least = max((results[n]["retry_after"] for n in left), default=0)
            pause = at_least + self._retries.pause(count)
            if self._retries.clock() + pause >= until:
                break
            if left:
                self._sleep(pause)
            count += 1
        return [results[n] for n in range(len(members))]

    def preview_refund(self, request: RefundRequest) -> Preview:
        """Return what would happen with a refund; store nothing."""
        found = self._call("POST", "/v1/refunds/preview", request)
        return cast("Preview", found.json())

    def get_refund(self, refund_id: str) -> Refund:
        """Return a refund as it is now."""
        found = self._call("GET", path_of(refund_id))
        return cast("Refund", found.json())

    def wait_until_final(self, refund_id: str, *, timeout: float = 120.0) -> Refund:
        """
        Return a refund when it is final; *timeout* is in seconds.

        Raises:
            NotFinalError: It was not final in time.
        """
        until = self._retries.clock() + timeout
        while True:
            left = until - self._retries.clock()
            wait = max(0, min(_LONGEST_WAIT, int(left)))
            answer = self._call(
                "GET", path_of(refund_id), headers=prefer(wait), wait=wait
            )
            refund = cast("Refund", answer.json())
            if refund["status"] in FINAL:
                return refund
            left = until - self._retries.clock()
            if left <= 0:
                raise NotFinalError(refund)
            self._pause_unless_waited(answer, left)

    def refunds(
        self,
        *,
        payment_session_id: str | None = None,
        status: str | None = None,
        network: str | None = None,
        created_from: str | None = None,
        created_before: str | None = None,
        min_amount: str | None = None,
        max_amount: str | None = None,
    ) -> Iterator[Refund]:
        """Yield the tenant's refunds, newest first, page by page."""
        params = {
            "payment_session_id": payment_session_id,
            "status": status,
            "network": network,
            "created_from": created_from,
            "created_before": created_before,
            "min_amount": min_amount,
            "max_amount": max_amount,
        }
        cursor: str | None = None
        while True:
            given = {**params, "limit": "200", "cursor": cursor}
            answer = self._call("GET", "/v1/refunds", params=given)
            page = cast("RefundList", answer.json())
            yield from page["refunds"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def cancel_refund(self, refund_id: str) -> Refund:
        """
        Ask for the end of a refund that has no nonce yet.

        It is cancelled if its status is; otherwise a worker has not come to it.
        """
        found = self._call("POST", f"{path_of(refund_id)}/cancel")
        return cast("Refund", found.json())

    def explain_refund(self, refund_id: str) -> Explanation:
        """Return why a refund has its status, and what happens next."""
        found = self._call("GET", f"{path_of(refund_id)}/explain")
        return cast("Explanation", found.json())

    def tokens(self) -> Sequence[Token]:
        """Return what may be refunded, with its limits."""
        found = self._call("GET", "/v1/tokens")
        return cast("TokenList", found.json())["tokens"]

    def networks(self) -> Sequence[Network]:
        """Return where refunds are paid."""
        found = self._call("GET", "/v1/networks")
        return cast("NetworkList", found.json())["networks"]

    def list_events(
        self, after: str = "0", *, limit: int = 50, wait: int = 0
    ) -> EventList:
        """
        Return the events after a cursor, oldest first; "0" begins with the oldest.

        An empty page waits up to *wait* seconds, at most 20, for the next event.
        """
        found = self._events(after, limit, wait)
        return cast("EventList", found.json())

    def follow_events(
        self, after: str = "0", *, limit: int = 50
    ) -> Iterator[EventList]:
        """
        Yield pages of events for ever, waiting for new ones.

        Store the ``next_cursor`` of a page after its events are processed, and start
        with it again.
        """
        while True:
            answer = self._events(after, limit, _LONGEST_WAIT)
            page = cast("EventList", answer.json())
            after = page["next_cursor"]
            if page["events"]:
                yield page
            else:
                self._pause_unless_waited(answer, _POLL_SECONDS)

    def webhook_keys(self) -> Sequence[str]:
        """Return the public keys for ``verify_webhook``; keep them, and ask daily."""
        found = self._call("GET", "/v1/webhooks/keys")
        keys = cast("WebhookKeys", found.json())["keys"]
        return [key["standard_webhooks_key"] for key in keys]

    def _events(self, after: str, limit: int, wait: int) -> httpx.Response:
        params = {"after": after, "limit": str(limit)}
        headers = prefer(wait)
        return self._call(
            "GET", "/v1/events", params=params, headers=headers, wait=wait
        )

    def _pause_unless_waited(self, answer: httpx.Response, at_most: float) -> None:
        # The service waits for a limited number of clients, and says if it did.
        if "preference-applied" not in answer.headers:
            pause = _POLL_SECONDS * (0.5 + self._retries.draw())
            self._sleep(min(pause, at_most))

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        params: Mapping[str, str | None] | None = None,
        headers: Mapping[str, str] | None = None,
        wait: float = 0,
    ) -> httpx.Response:
        given = {**(headers or {})}
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            given["Content-Type"] = "application/json"
        query = {name: each for name, each in (params or {}).items() if each}

        def attempt(left: float) -> httpx.Response:
            token = self._token if isinstance(self._token, str) else self._token()
            return self._http.request(
                method,
                self._base + path,
                content=content,
                params=query or None,
                headers={**given, "Authorization": f"Bearer {token}"},
                timeout=min(self._timeout + wait, left),
            )

        response = self._repeat(attempt, given.get("Idempotency-Key"))
        if not response.is_success:
            raise ApiError.of(response)
        return response

    def _repeat(
        self, attempt: Callable[[float], httpx.Response], key: str | None
    ) -> httpx.Response:
        """
        Return the first answer that a repetition would not change.

        *attempt* makes the same request each time; it gets the seconds that are left.

        Raises:
            UnansweredError: There was none before the deadline.
        """
        until = self._retries.clock() + self._retries.deadline
        count = 0
        while True:
            last: Exception
            at_least = 0.0
            try:
                response = attempt(max(until - self._retries.clock(), 0.001))
            except LOST as e:
                last = e
            else:
                if not should_repeat(response.status_code, response.headers):
                    return response
                last = ApiError.of(response)
                at_least = retry_after(response.headers)
            pause = at_least + self._retries.pause(count)
            if self._retries.clock() + pause >= until:
                raise UnansweredError(last, key) from last
            self._sleep(pause)
            count += 1
