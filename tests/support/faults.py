"""Dependencies that fail, or kill the process, at each of their calls in turn."""

from collections.abc import Callable, Collection
from typing import Any

import pytest


class Killed(BaseException):
    """The process is killed: no code of the service catches this."""


class Fault:
    """
    A fault at one call, the number *at*, or *after* that change.

    With *kills*, only changes count: a process that is killed at a question leaves the
    same state as one that is killed before its next change.
    """

    def __init__(
        self, at: int, changes: Collection[str], *, after: bool, kills: bool
    ) -> None:
        """*changes* are the names of the calls that change something."""
        self._at = at
        self._changes = changes
        self._after = after
        self._kills = kills
        self.count = 0
        self.place = ""

    def call(self, work: Callable[[], Any], name: str, error: Exception) -> Any:
        """Run *work*, unless the fault is due."""
        self.count += name in self._changes or not (self._after or self._kills)
        if self.place or self.count != self._at:
            return work()
        self.place = name
        if self._after:
            work()
        raise Killed if self._kills else error


class Faulty:
    """A dependency with a *fault* in each of its methods."""

    def __init__(self, target: object, fault: Fault, error: Exception) -> None:
        self._target = target
        self._fault = fault
        self._error = error

    def __getattr__(self, name: str) -> Any:
        """Return the target's attribute, or its method with the fault."""
        attribute = getattr(self._target, name)
        if not callable(attribute):
            return attribute

        def method(*args: Any, **kwargs: Any) -> Any:
            return self._fault.call(
                lambda: attribute(*args, **kwargs), name, self._error
            )

        return method


def fault_places(
    run: Callable[[Fault], None], changes: Collection[str], *, after: bool, kills: bool
) -> set[str]:
    """Run with a fault at each call in turn, and return the names of the calls."""
    places: list[str] = []
    while not places or places[-1]:
        fault = Fault(len(places) + 1, changes, after=after, kills=kills)
        run(fault)
        places.append(fault.place)
    return {*places}


everywhere = pytest.mark.parametrize(
    ("after", "kills"),
    [(False, True), (True, True), (False, False), (True, False)],
    ids=["killed-before", "killed-after", "error-before", "error-after"],
)
