"""Both Python clients, so that one test can call either."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack
from typing import Any, Self, cast

import httpx

from hotwallet_client import AsyncHotWallet, HotWallet


class Blocking:
    """Has the methods of an asynchronous client, and runs them to their end."""

    def __init__(self, client: AsyncHotWallet, runner: asyncio.Runner) -> None:
        self._client = client
        self._runner = runner

    def __repr__(self) -> str:
        return repr(self._client)

    def __enter__(self) -> Self:
        assert self._runner.run(self._client.__aenter__()) is self._client
        return self

    def __exit__(self, *exception: object) -> None:
        self._runner.run(self._client.__aexit__(*exception))  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*arguments: Any, **named: Any) -> Any:
            found = method(*arguments, **named)
            if isinstance(found, AsyncGenerator):
                return self._iterate(found)
            return self._runner.run(found)

        return call

    def _iterate(self, items: AsyncGenerator[Any]) -> Iterator[Any]:
        end = object()
        try:
            while (item := self._runner.run(_next(items, end))) is not end:
                yield item
        finally:
            self._runner.run(items.aclose())


async def _next(items: AsyncGenerator[Any], end: object) -> Any:
    return await anext(items, end)


class Clients:
    """Makes clients of one kind, and closes them."""

    def __init__(self, kind: str, running: ExitStack) -> None:
        self.kind = kind
        self._running = running
        if kind == "async":
            self._runner = running.enter_context(asyncio.Runner())

    def make(
        self,
        url: str,
        token: str | Callable[[], str],
        *,
        sleep: Callable[[float], None] = time.sleep,
        transport: Any = None,
        **given: Any,
    ) -> HotWallet:
        """Return a client; one of asyncio has the same methods, which block."""
        if self.kind == "sync":
            http = httpx.Client(transport=transport)
            client = HotWallet(url, token, http=http, sleep=sleep, **given)
            return self._running.enter_context(client)
        asynchronous = AsyncHotWallet(
            url,
            token if isinstance(token, str) else _coroutine(token),
            http=httpx.AsyncClient(transport=transport),
            sleep=asyncio.sleep if sleep is time.sleep else _coroutine(sleep),
            **given,
        )
        blocking = Blocking(asynchronous, self._runner)
        return cast("HotWallet", self._running.enter_context(blocking))


def _coroutine(function: Callable[..., Any]) -> Callable[..., Any]:
    async def run(*arguments: Any) -> Any:
        return function(*arguments)

    return run
