"""What a change of the console is made of."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from api.container import Container
from signer.approvals import MAX_REASON, require_reason
from signer.errors import InvalidInputError
from signer.model.audit_record import Actor


Values = Mapping[str, str]
"""The fields of a form, by name."""

Options = Mapping[str, str]
"""The values that a field may have, and how each is shown."""

Facts = Sequence[tuple[str, str]]
"""Names and values, as the pages show them."""


@dataclass(frozen=True, slots=True)
class Field:
    """
    A field of the form of a change.

    With *options* its value is one of these.  An optional field may be empty.
    """

    name: str
    label: str
    hint: str = ""
    is_required: bool = True
    max_length: int = 128
    options: Callable[[Container], Options] | None = None

    def read(self, container: Container, text: str) -> str:
        """
        Return the value that *text* of a form has.

        Raises:
            InvalidInputError: It is empty, too long, not printable, or no option.
        """
        value = text.strip()
        if self == REASON:
            require_reason(value)
        if self.is_required and not value:
            raise InvalidInputError(f"{self.label}: must not be empty", field=self.name)
        if len(value) > self.max_length or not value.isprintable():
            raise InvalidInputError(
                f"{self.label}: must be one line of at most {self.max_length}"
                " characters",
                field=self.name,
            )
        if self.options is not None and value not in self.options(container):
            raise InvalidInputError(
                f"{self.label}: is none of the options: open the page again",
                field=self.name,
            )
        return value

    def show(self, container: Container, value: str) -> str:
        """Return *value* as the pages show it."""
        if self.options is None:
            return value or "-"
        return self.options(container).get(value, value)


REASON = Field(
    "reason",
    "Reason",
    "One line, for the audit log and for the administrator who approves.",
    max_length=MAX_REASON,
)


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What a change will do, as its confirmation page shows it.

    ``facts`` are the state that it ends or starts from: it is made only while they are
    those that were confirmed.  ``notes`` say what follows from it.  With
    ``needs_approval`` another administrator must have approved it.
    """

    facts: Facts = ()
    notes: Sequence[str] = ()
    needs_approval: bool = False

    def digest(self, values: Values) -> str:
        """Return what identifies the plan for the fields *values*, in hex."""
        shown = json.dumps([sorted(values.items()), [*map(list, self.facts)]])
        return hashlib.sha256(shown.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    What a change did.

    ``problem`` is the code of an error that left something undone.  ``next_step`` is
    the text of a link and its path.
    """

    summary: str
    details: Sequence[str] = ()
    problem: str | None = None
    next_step: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """
    One change: its form, its permission, what it shows and what it calls.

    ``scope`` is that of ``api``, the route or the command that makes the same change.
    ``page`` is the page that offers it.  ``plan`` reads what would be done, and changes
    nothing.  ``make`` makes the change for an actor.  Both raise ``HotWalletError``.
    """

    name: str
    title: str
    scope: str
    api: str
    page: str
    fields: Sequence[Field]
    plan: Callable[[Container, Values], Plan]
    make: Callable[[Container, Values, Actor], Outcome]
    is_danger: bool = False

    def read(self, container: Container, form: Mapping[str, str]) -> Values:
        """Return the values of the fields in *form*; raises as ``Field.read``."""
        return {
            each.name: each.read(container, form[each.name]) for each in self.fields
        }

    def shown(self, container: Container, values: Values) -> Facts:
        """Return the labels of the fields, and *values* as the pages show them."""
        return [
            (each.label, each.show(container, values[each.name]))
            for each in self.fields
        ]


def count(number: int, singular: str, plural: str | None = None) -> str:
    """
    Return *number* with its noun.

    >>> count(1, "refund"), count(2, "refund")
    ('1 refund', '2 refunds')
    """
    noun = singular if number == 1 else plural or f"{singular}s"
    return f"{number} {noun}"
