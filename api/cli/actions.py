"""The command of an action of administrators, made from its declaration."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from inspect import cleandoc
from typing import TYPE_CHECKING, Any, TextIO

import click

from api.actions.action import Action, Answer, Field, FieldKind, Values
from api.actions.catalogue import commands_of
from api.cli.operator import current_operator, identified_operator
from api.cli.options import confirm, dry_run_option, yes_option
from api.cli.output import command_logging, json_option, print_result
from signer.errors import InvalidInputError
from signer.redact import key_prefix


if TYPE_CHECKING:
    from api.container import Container


_LARGEST_SIGNATURE = 16 * 1024

Run = Callable[[Values], Answer]
"""Takes the action with values."""

Around = Callable[[Run, Values], Answer]
"""Calls a ``Run`` once or several times, with values that have its own options."""


def command_of(
    action: Action, *options: click.Option, around: Around | None = None
) -> click.Command:
    command = click.Command(
        action.command.rpartition(" ")[2],
        params=[
            *(_parameter(each) for each in action.fields),
            *options,
            _reason(action.reason),
        ],
        help="\n\n".join([action.explanation, cleandoc(action.more_help)]).strip(),
        callback=lambda **given: _take(action, given, around),
    )
    if action.asks:
        command = yes_option(command)
    return json_option(dry_run_option(command))


def _parameter(field: Field) -> click.Parameter:
    if field.argument and field.is_many:
        many = f"{field.argument}..."
        return click.Argument([field.name], metavar=many, nargs=-1, required=True)
    if field.argument:
        return click.Argument([field.name], metavar=field.argument)
    names = [field.option or f"--{field.name.replace('_', '-')}", field.name]
    if field.kind is FieldKind.FLAG:
        return click.Option(names, is_flag=True, help=field.about)
    if field.kind is FieldKind.SIGNATURE:
        return click.Option(
            names, help=field.about, type=click.File(), callback=_read_signature
        )
    metavar = "ADDRESS" if field.kind is FieldKind.ADDRESS else None
    return click.Option(names, help=field.about, metavar=metavar)


def _read_signature(
    _: click.Context, __: click.Parameter, file: TextIO | None
) -> str | None:
    return None if file is None else file.read(_LARGEST_SIGNATURE)


def _reason(field: Field) -> click.Option:
    about = "Why, for the audit log and who approves it."
    if not field.is_required:
        return click.Option(["--reason"], default="", help=about)
    about += "  Required; asked for on a terminal."
    return click.Option(["--reason"], callback=_ask_reason, help=about)


def _ask_reason(
    context: click.Context, parameter: click.Parameter, reason: str | None
) -> str:
    """Ask on a terminal: in an incident the bare command must stop signing."""
    if reason is not None:
        return reason
    if not sys.stdin.isatty():
        raise click.MissingParameter(ctx=context, param=parameter)
    return click.prompt("Reason", err=True, type=str)


def _take(action: Action, given: dict[str, Any], around: Around | None) -> None:
    as_json, dry_run = given.pop("as_json"), given.pop("dry_run")
    reason, is_sure = given.pop("reason"), given.pop("yes", True) or dry_run
    if not (is_sure or action.asks_with_plan):
        _confirm(action, given, [action.explanation])
    try:
        with command_logging():
            container = _build(action)
            if not is_sure and action.asks_with_plan:
                _confirm(action, given, action.plan(container, given).answer().lines)

            def run(values: Values) -> Answer:
                values = {**values, "reason": reason}
                actor = current_operator(reason)
                if dry_run:
                    return action.rehearse(container, values, actor)
                if action.needs_token(values):
                    actor = identified_operator(container, action.scope, reason)
                return action.make(container, values, actor)

            answer = around(run, given) if around else run(given)
    except InvalidInputError as e:
        names = {each.name: each.argument or each.option for each in action.fields}
        field = names.get(e.field or "") or e.field
        raise InvalidInputError(str(e), field=field) from None
    print_result(answer.document, answer.lines, as_json=as_json)
    if not answer.ok:
        sys.exit(1)


def _confirm(action: Action, values: Values, lines: Sequence[str]) -> None:
    """Show *lines* on standard error, and ask for the action on its arguments."""
    print_result(None, lines, as_json=False, err=True)
    shown = [
        key_prefix(values[each.name])
        if each.kind is FieldKind.KEY
        else values[each.name]
        for each in action.fields
        if each.argument
    ]
    confirm(": ".join([action.title, *shown]) + "?")


def _build(action: Action) -> Container:
    from api.bootstrap import build_admin_container, build_container

    return build_admin_container() if action.needs_device else build_container()


def add_commands(group: click.Group) -> None:
    """Add to *group* the commands of its actions, except those that it has."""
    for action in commands_of(str(group.name)):
        command = command_of(action)
        if command.name not in group.commands:
            group.add_command(command)
