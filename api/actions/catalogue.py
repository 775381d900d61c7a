"""All actions of administrators."""

from collections.abc import Sequence

from api.actions import approvals, holds, keys, refunds, wallets
from api.actions.action import Action, rehearsal_of


ACTIONS: Sequence[Action] = [
    value
    for module in (holds, wallets, keys, refunds, approvals)
    for value in vars(module).values()
    if isinstance(value, Action)
]
"""Each has its route, its command and its pages by being a value of these modules."""

FORMS: Sequence[Action] = [
    *ACTIONS,
    *(rehearsal_of(each) for each in ACTIONS if each.rehearsal is not None),
]
"""Each has its pages in the console: actions, and dry runs of their own."""


def commands_of(group: str) -> Sequence[Action]:
    return [each for each in ACTIONS if each.command.rpartition(" ")[0] == group]
