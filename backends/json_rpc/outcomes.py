"""Outcomes: results, with errors as values, so that one failure leaves the others."""

from collections.abc import Callable
from typing import TypeVar

from signer.errors import ChainError


_T = TypeVar("_T")


def attempt(action: Callable[[], _T]) -> _T | ChainError:
    """Return the result of *action*, or its ``ChainError``."""
    try:
        return action()
    except ChainError as e:
        return e
