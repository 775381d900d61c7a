"""A port whose calls pause, so that other processes run, and sometimes fail."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from signer.errors import ChainError, HotWalletError
from signer.ports.refund_store import Topic, Watch
from tests.simulation.faults import CallFault, Faults
from tests.simulation.scheduler import Process
from tests.simulation.trace import brief


# No schedule blocks a tenant, so these reads answer the same each time.  A fault of one
# would be that of the store's next call, and would only move the seeds that find bugs.
# ``authenticate`` asks no database.
_WITHOUT_FAULTS = frozenset({"authenticate", "find_block"})


class FaultyPort:
    """
    Pauses before and after each call of *target*, and injects faults.

    *observe* gets the arguments and the result of each call, even of one whose result
    is lost.
    """

    def __init__(
        self,
        process: Process,
        port: str,
        target: object,
        faults: Faults,
        observe: Callable[[object], None] = lambda seen: None,
    ) -> None:
        self._process = process
        self._port = port
        self._target = target
        self._faults = faults
        self._observe = observe

    def __getattr__(self, name: str) -> Any:
        """Return the target's attribute, or its method with pauses and faults."""
        attribute = getattr(self._target, name)
        if not callable(attribute) or name in _WITHOUT_FAULTS:
            return attribute

        def method(*args: Any, **kwargs: Any) -> Any:
            return self._call(name, attribute, args, kwargs)

        vars(self)[name] = method  # It is found at once from now on.
        return method

    def _call(
        self,
        name: str,
        work: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        self._process.pause(self._faults.latency(self._port))
        fault = self._faults.draw(self._port)
        if fault and not fault.is_late:
            self._log(name, args, fault.value)
            self._inject(name, fault)
        try:
            result = work(*args, **kwargs)
        except HotWalletError as e:
            self._log(name, args, f"{e.code} {getattr(e, 'reason', '')}".rstrip())
            raise
        for seen in (*args, result):
            self._observe(seen)
        self._log(name, args, result, f"  !! {fault.value}" if fault else "")
        self._process.pause(self._faults.latency(self._port))
        if fault:
            self._inject(name, fault)
        return result

    def _inject(self, name: str, fault: CallFault) -> None:
        if fault.kills:
            self._process.die()
        raise self._faults.error(self._port, name, fault)

    def _log(
        self, name: str, args: tuple[Any, ...], result: object, suffix: str = ""
    ) -> None:
        scheduler = self._process.scheduler
        if scheduler.trace.wanted:
            given = ", ".join(map(brief, args))
            # Outcomes are sentences already; ``brief`` would cut them.
            outcome = result if isinstance(result, str) else brief(result)
            scheduler.log(
                self._process.name, f"{self._port}.{name}({given}) -> {outcome}{suffix}"
            )


class ChainPort(FaultyPort):
    """The chain, whose nodes may die or fail between two transactions of a batch."""

    def broadcast_all(self, raws: Sequence[bytes]) -> Sequence[ChainError | None]:
        """Broadcast one after the other, each with its own faults."""
        return [self._broadcast(raw) for raw in raws]

    def _broadcast(self, raw: bytes) -> ChainError | None:
        try:
            self.broadcast(raw)
        except ChainError as e:
            return e
        return None


class StorePort(FaultyPort):
    """
    The store, whose watches see each change late.

    *version* returns another number after each change of the database.
    """

    def __init__(self, *given: Any, version: Callable[[], int]) -> None:
        super().__init__(*given)
        self._version = version

    @contextmanager
    def watch(self, topic: Topic) -> Iterator[Watch]:
        """Begin a watch of all changes."""
        yield StoreWatch(self._process, self._version)


class StoreWatch:
    """Waits for a part of the time, and then returns whether anything has changed."""

    def __init__(self, process: Process, version: Callable[[], int]) -> None:
        self._process = process
        self._version = version
        self._seen = version()

    def wait(self, seconds: float) -> bool:
        """Pause for up to *seconds*."""
        self._process.pause(self._process.scheduler.random.uniform(0, seconds))
        before, self._seen = self._seen, self._version()
        return self._seen != before
