"""A command group that imports a subcommand when it runs, not when it is listed."""

from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from typing import Any, NamedTuple

import click

from api.extension import find_commands


class LazyCommand(NamedTuple):
    """Where a command is (``module:attribute``), and its line in the group's help."""

    target: str
    short_help: str


class LazyGroup(click.Group):
    """
    A group whose *core* commands, and those of extras, are imported on first use.

    Importing all of them takes most of a second, which ``--help`` and shell completion
    need not wait for.  Extras name the group by its *path*.
    """

    def __init__(
        self,
        *args: Any,
        core: Mapping[str, tuple[str, str]],
        path: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._core, self._path = core, path

    @cached_property
    def lazy(self) -> Mapping[str, LazyCommand]:
        rows = {**find_commands(self._path), **self._core}
        return {name: LazyCommand(*row) for name, row in rows.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self.lazy[cmd_name].target.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        names = self.list_commands(ctx)
        limit = formatter.width - 6 - max(map(len, names))
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, self._short_help(name, limit)) for name in names]
            )

    def _short_help(self, name: str, limit: int) -> str:
        if name in self.lazy:
            return self.lazy[name].short_help
        return self.commands[name].get_short_help_str(limit)
