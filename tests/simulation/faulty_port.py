"""A port whose calls pause, so that other processes run, and sometimes fail."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from signer.errors import HotWalletError
from signer.ports import Topic, Watch
from tests.simulation.faults import CallFault, Faults
from tests.simulation.scheduler import Process
from tests.simulation.trace import brief


# No schedule blocks a tenant, so these reads answer the same each time.  A fault of one
# would be that of the store's next call, and would only move the seeds that find bugs.
_WITHOUT_FAULTS = frozenset({"tenant_block"})


_WATCH_SECONDS = 0.2


class _SimulatedWatch:
    """A watch that does not know what changed, and lets its process read again."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def wait(self, seconds: float) -> bool:
        self._process.pause(min(seconds, _WATCH_SECONDS))
        return True


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

        return method

    @contextmanager
    def watch(self, _: Topic) -> Iterator[Watch]:
        """Watch the ledger in simulated time: threads of a real watch would not."""
        yield _SimulatedWatch(self._process)

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
