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
    same state as one that is killed before its next change.  So an error at a question
    shows how the error is handled: the first call of each question counts, and with
    *repeats* every one.
    """

    def __init__(
        self,
        at: int,
        changes: Collection[str],
        *,
        after: bool,
        kills: bool,
        repeats: bool = False,
    ) -> None:
        """*changes* are the names of the calls that change something."""
        self._at = at
        self._changes = changes
        self._after = after
        self._kills = kills
        self._repeats = repeats
        self._asked: set[str] = set()
        self.count = 0
        self.place = ""

    def call(self, work: Callable[[], Any], name: str, error: Exception) -> Any:
        """Run *work*, unless the fault is due."""
        self.count += self._counts(name)
        if self.place or self.count != self._at:
            return work()
        self.place = name
        if self._after:
            work()
        raise Killed if self._kills else error

    def _counts(self, name: str) -> bool:
        if name in self._changes:
            return True
        is_new = name not in self._asked
        self._asked.add(name)
        return (is_new or self._repeats) and not (self._after or self._kills)


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
    run: Callable[[Fault], None],
    changes: Collection[str],
    *,
    after: bool,
    kills: bool,
    repeats: bool,
) -> set[str]:
    """Run with a fault at each call in turn, and return the names of the calls."""
    places: list[str] = []
    while not places or places[-1]:
        fault = Fault(
            len(places) + 1, changes, after=after, kills=kills, repeats=repeats
        )
        run(fault)
        places.append(fault.place)
    return {*places}


everywhere = pytest.mark.parametrize(
    ("after", "kills", "repeats"),
    [
        pytest.param(False, True, False, id="killed-before"),
        pytest.param(False, False, False, id="error-before"),
        pytest.param(True, False, False, id="error-after"),
        # What it leaves was left by a kill before the following change.
        pytest.param(True, True, False, id="killed-after", marks=pytest.mark.soak),
        pytest.param(
            False, False, True, id="error-before-repeats", marks=pytest.mark.soak
        ),
    ],
)
