"""Outcomes: results, with errors as values, so that one failure leaves the others."""

from typing import TypeVar


_T = TypeVar("_T")


def require(outcome: _T | Exception) -> _T:
    """Return *outcome*, or raise it if it is an error."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
