"""What an action of administrators is made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from enum import StrEnum
from inspect import cleandoc
from typing import TYPE_CHECKING, Any

from signer.audit.actions import AuditAction
from signer.errors import InvalidInputError
from signer.model.audit_record import MAX_REASON, Actor, require_reason


if TYPE_CHECKING:
    from api.container import Container


ADMINISTRATORS = frozenset({"admin", "devops"})
"""The roles of which a token for an action needs one."""

EVERY = "*"
"""What a form has for every option.  The other surfaces leave the field out."""

Values = Mapping[str, Any]
"""The fields of an action by name: text, True, or None for what was left out."""

Texts = Mapping[str, str]
"""The same fields as a form has them."""

Facts = Sequence[tuple[str, str]]
"""Names and values, as the pages show them."""


class FieldKind(StrEnum):
    """What the value of a field is; the OpenAPI document has the pattern of each."""

    TEXT = "text"
    FLAG = "flag"
    REASON = "reason"
    NAME = "name"
    KEY = "key"
    ADDRESS = "address"
    DIGEST = "digest"
    EVENT = "event"
    REFUND = "refund"
    SIGNATURE = "signature"


@dataclass(frozen=True, slots=True)
class Field:
    """
    A field of an action: of the path or the body, of a command and of a form.

    ``about`` explains it everywhere.  ``json`` is its name in a body.  It is an
    *argument* of the command, named *argument*, or else an *option*.  With *choices*,
    forms offer these values, each with its text.  Forms may demand a field that is
    optional elsewhere.
    """

    name: str
    about: str
    _: KW_ONLY
    kind: FieldKind = FieldKind.TEXT
    label: str = ""
    json: str = ""
    argument: str = ""
    option: str = ""
    is_many: bool = False
    is_required: bool = True
    is_required_in_form: bool = False
    max_length: int = 128
    example: Any = None
    choices: Callable[[Container], Texts] | None = None

    @property
    def shown_label(self) -> str:
        return self.label or self.name.replace("_", " ").capitalize()

    @property
    def json_name(self) -> str:
        return self.json or self.name

    @property
    def is_demanded(self) -> bool:
        return self.is_required or self.is_required_in_form

    def check(self, text: str, name: str) -> None:
        """
        Require that *text* can be a value of this field, called *name*.

        Raises:
            InvalidInputError: It is empty, too long or not printable.
        """
        if self.kind is FieldKind.REASON:
            if text or self.is_required:
                require_reason(text)
        elif not (0 < len(text) <= self.max_length and text.isprintable()):
            raise InvalidInputError(
                f"must be one line of 1 to {self.max_length} characters", field=name
            )

    def read_form(self, container: Container, text: str) -> str:
        """
        Return *text* of a form without the spaces around it.

        Raises:
            InvalidInputError: As ``check``, or it is none of the choices.
        """
        text = text.strip()
        if text or self.is_demanded:
            try:
                self.check(text, self.name)
            except InvalidInputError as e:
                message = f"{self.shown_label}: {e}"
                raise InvalidInputError(message, field=self.name) from None
        choices = self.offered(container)
        if choices is not None and text not in choices:
            raise InvalidInputError(
                f"{self.shown_label}: is none of the options: open the page again",
                field=self.name,
            )
        return text

    def offered(self, container: Container) -> Texts | None:
        """Return the choices of a form; None if it takes a text."""
        if self.kind is FieldKind.FLAG:
            return {"": "no", "yes": "yes"}
        return None if self.choices is None else self.choices(container)

    def value(self, text: str) -> str | bool | None:
        """Return the value of *text*, which ``read_form`` returned."""
        if self.kind is FieldKind.FLAG:
            return text == "yes"
        return None if text in {"", EVERY} else text


REASON = Field(
    "reason",
    "Why, for the audit log and other administrators: one line of printable text.",
    kind=FieldKind.REASON,
    is_required=False,
    is_required_in_form=True,
    max_length=MAX_REASON,
    example="checked with the gateway",
)
"""Of every action; forms always ask for it."""

REQUIRED_REASON = replace(REASON, is_required=True)

DRY_RUN = Field(
    "dry_run",
    "Self-test the key, and change nothing. The default is false.",
    kind=FieldKind.FLAG,
    json="dryRun",
    is_required=False,
)


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What an action will do, as a confirmation or a dry run shows it.

    ``facts`` are the state that it ends or starts from: the console takes the action
    only while they are those that were confirmed.  ``notes`` say what follows from it.
    With ``needs_approval`` another administrator must have approved it.
    """

    facts: Facts = ()
    notes: Sequence[str] = ()
    needs_approval: bool = False

    def digest(self, texts: Texts) -> str:
        """Return what identifies the plan for the fields *texts*, in hex."""
        shown = json.dumps([sorted(texts.items()), [*map(list, self.facts)]])
        return hashlib.sha256(shown.encode()).hexdigest()

    def answer(self) -> Answer:
        lines = [f"{name}: {value}" for name, value in self.facts]
        lines += self.notes
        if self.needs_approval:
            lines.append("Another administrator must approve it.")
        document = {
            "facts": dict(self.facts),
            "notes": list(self.notes),
            "needsApproval": self.needs_approval,
        }
        return Answer(document, lines)


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What an action did: a *document* for programs, and *lines* for people.

    Without *ok* a command exits with 1.  With *is_pending* something has to happen
    before it is done: HTTP 202.  ``problem`` is the code of what was left undone;
    ``next_step`` is the text of a link of the console and its path.
    """

    document: Any
    lines: Sequence[str]
    _: KW_ONLY
    ok: bool = True
    is_pending: bool = False
    problem: str | None = None
    next_step: tuple[str, str] | None = None


Make = Callable[["Container", Values, Actor], Answer]


@dataclass(frozen=True, slots=True)
class Proposed:
    """
    What another administrator approves.

    ``sentence`` is the proposal in words, made of nothing but its facts.  ``texts`` are
    fields of the form with which the action is repeated after the approval, for the
    facts and the networks' names by chain id.
    """

    action: AuditAction
    sentence: Callable[[Mapping[str, Any]], str]
    texts: Callable[[Mapping[str, Any], Mapping[int, str]], Texts]


def _no_plan(_: Container, __: Values) -> Plan:
    return Plan()


def _never(_: Values) -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """
    One action: who may take it, what it takes, what it would do, and what it does.

    ``about`` explains it in the OpenAPI document, in the help and before it is
    confirmed; *more_help* is for the command only.  ``plan`` reads the state that it
    ends, and ``make`` does it; both raise ``HotWalletError``.

    A dry run answers the plan.  If it *has_dry_run*, ``make`` answers it: it changes
    nothing if the value ``dry_run`` is true.  With a *rehearsal*, the name and title of
    its form, the API and the console offer that too, since the device signs a test.

    A command *asks* first, with the plan if ``asks_with_plan``.  It reads the
    operator's token if ``needs_token``: an action that needs no approval must not fail
    because of a token.

    ``document`` is ``module:class`` of the answer, which commands do not import, and
    *collection* the member that lists are wrapped in.  ``body`` names the schema of the
    request, if it has more fields than the reason, and *rules* are added to it.
    """

    name: str
    title: str
    about: str
    more_help: str = ""
    scope: str
    audit: AuditAction
    path: str
    operation: str
    command: str
    page: str
    fields: Sequence[Field]
    reason: Field = REASON
    plan: Callable[[Container, Values], Plan] = _no_plan
    make: Make
    has_dry_run: bool = False
    rehearsal: tuple[str, str] | None = None
    proposed: Proposed | None = None
    asks: bool = True
    asks_with_plan: bool = False
    needs_token: Callable[[Values], bool] = _never
    needs_device: bool = False
    is_danger: bool = False
    answers: Mapping[int, str] = field(default_factory=lambda: {200: "What changed."})
    document: str
    collection: str = ""
    problems: frozenset[str] = frozenset({"not-found"})
    body: str = ""
    rules: Mapping[str, Any] | None = None

    @property
    def explanation(self) -> str:
        """What it does, without indentation."""
        return cleandoc(self.about)

    @property
    def form(self) -> Sequence[Field]:
        return (*self.fields, self.reason)

    @property
    def api(self) -> str:
        return f"POST {self.path}"

    @property
    def schema(self) -> str:
        return self.document.rpartition(":")[2].removesuffix("Document")

    @property
    def in_path(self) -> Sequence[Field]:
        return [each for each in self.fields if f"{{{each.name}}}" in self.path]

    @property
    def in_body(self) -> Sequence[Field]:
        own = [each for each in self.fields if f"{{{each.name}}}" not in self.path]
        return (*own, *((DRY_RUN,) if self.rehearsal else ()), self.reason)

    def read_form(self, container: Container, form: Texts) -> Texts:
        """Return the texts of the fields in *form*; raises as ``Field.read_form``."""
        return {
            each.name: each.read_form(container, form[each.name]) for each in self.form
        }

    def values(self, texts: Texts) -> Values:
        """Return the values of *texts*, which ``read_form`` returned."""
        return {each.name: each.value(texts[each.name]) for each in self.form}

    def shown(self, container: Container, texts: Texts) -> Facts:
        """Return the labels of the fields, and *texts* as the pages show them."""
        rows = []
        for each in self.form:
            text = texts[each.name]
            choices = each.offered(container) or {}
            rows.append((each.shown_label, choices.get(text, text) or "-"))
        return rows

    def rehearse(self, container: Container, values: Values, actor: Actor) -> Answer:
        if self.has_dry_run:
            return self.make(container, {**values, "dry_run": True}, actor)
        return self.plan(container, values).answer()


def rehearsal_of(action: Action) -> Action:
    """Return the dry run of *action*, which has a rehearsal, as one of the console."""
    name, title = action.rehearsal or ("", "")
    note = "The device signs a test with the new key. Nothing is changed."
    return replace(
        action,
        name=name,
        title=title,
        about=note,
        plan=_no_plan,
        make=action.rehearse,
        is_danger=False,
    )


def count(number: int, singular: str, plural: str | None = None) -> str:
    """
    Return *number* with its noun.

    >>> count(1, "refund"), count(2, "refund")
    ('1 refund', '2 refunds')
    """
    noun = singular if number == 1 else plural or f"{singular}s"
    return f"{number} {noun}"
