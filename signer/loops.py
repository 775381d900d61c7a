"""The loop of work that a thread repeats in the background."""

from collections.abc import Callable
from typing import Any

from signer.errors import HotWalletError


Wait = Callable[[float], bool]
"""Waits for these seconds; returns true, perhaps earlier, if the loop is to end."""

IDLE_SECONDS = 5.0
"""How long a loop that a change of the ledger wakes waits for one at most."""


def repeat(
    work: Callable[[], float | None],
    wait: Wait,
    seconds: float,
    *,
    log: Any,
    event: str,
    at_once: bool = False,
) -> None:
    """
    Do *work* until *wait* returns true.

    The first round begins after *seconds*, or *at_once*.  Each next one begins after
    the seconds that *work* returned, or *seconds*.  An error ends only its own round,
    and is logged as *event*.
    """
    pause = seconds
    while at_once or not wait(pause):
        at_once, pause = False, seconds
        try:
            chosen = work()
            pause = seconds if chosen is None else chosen
        except HotWalletError as e:
            log.warning(event, code=e.code)
        except Exception as e:  # A bug in one round must not end them all.
            log.error(event, code=HotWalletError.code, exc_info=e)  # noqa: TRY400
