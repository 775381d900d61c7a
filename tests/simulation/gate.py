"""What stands between a process and the outside: other processes, and misfortune."""

from collections.abc import Callable
from typing import Any

from signer.errors import HotWalletError
from tests.simulation.faults import Blow, Faults
from tests.simulation.hub import Process
from tests.simulation.trace import brief


class Gate:
    """
    Any port, with a pause before and after each call, and a blow now and then.

    *watch* sees every answer, and what was given, also of calls whose answer is lost.
    """

    def __init__(
        self,
        process: Process,
        port: str,
        target: object,
        faults: Faults,
        watch: Callable[[object], None] = lambda seen: None,
    ) -> None:
        self._process = process
        self._port = port
        self._target = target
        self._faults = faults
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        """Return the target's attribute, or its method behind the gate."""
        attribute = getattr(self._target, name)
        if not callable(attribute):
            return attribute

        def method(*args: Any, **kwargs: Any) -> Any:
            return self._call(name, attribute, args, kwargs)

        return method

    def _call(
        self,
        name: str,
        work: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        self._process.pause(self._faults.latency(self._port))
        blow = self._faults.blow(self._port)
        if blow and not blow.is_late:
            self._tell(name, args, blow.value)
            self._strike(name, blow)
        try:
            answer = work(*args, **kwargs)
        except HotWalletError as e:
            self._tell(name, args, f"{e.code} {getattr(e, 'reason', '')}".rstrip())
            raise
        self._watched(args, answer)
        if self._process.hub.trace.wanted:
            self._tell(name, args, brief(answer), blow)
        self._process.pause(self._faults.latency(self._port))
        if blow:
            self._strike(name, blow)
        return answer

    def _strike(self, name: str, blow: Blow) -> None:
        if blow.is_deadly:
            self._process.die()
        raise self._faults.error(self._port, name, blow)

    def _watched(self, args: tuple[Any, ...], answer: object) -> None:
        for seen in (*args, answer):
            self._watch(seen)

    def _tell(
        self, name: str, args: tuple[Any, ...], outcome: str, blow: Blow | None = None
    ) -> None:
        hub = self._process.hub
        if hub.trace.wanted:
            given = ", ".join(map(brief, args))
            fault = f"  !! {blow.value}" if blow else ""
            hub.tell(
                self._process.name, f"{self._port}.{name}({given}) -> {outcome}{fault}"
            )
