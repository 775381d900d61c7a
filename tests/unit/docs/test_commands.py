"""
Every command of ``hotwallet`` in a guide exists, with its options and arguments.

``tests/e2e`` runs the commands of some guides; this finds a renamed one in all of them.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import click
import pytest

from api.cli.__main__ import cli


ROOT = Path(__file__).resolve().parents[3]

PAGES = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "clients").glob("*/README.md"),
    ]
    # Two describe earlier releases too; the generated page has no examples in fences.
    if path.name not in {"CHANGELOG.md", "cli.md"} and path.parent.name != "adr"
)

_FENCE = re.compile(
    r"^ *```(?P<language>console|text|sh)\n(?P<body>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
_ENDS = re.compile(r"[;&|()<>\n]+")
_BEFORE_COMMANDS = frozenset(
    {"!", "--", "admin", "do", "if", "then", "until", "while"}
)  # "admin": docker compose exec admin
_ASSIGNMENT = re.compile(r"[A-Z_0-9]+=.*", re.DOTALL)


def _scripts(page: str) -> Iterator[str]:
    """Yield the commands of each block of *page*; of a console, without its output."""
    for block in _FENCE.finditer(page):
        body = dedent(block["body"])
        if block["language"] != "console":
            yield from body.replace("\\\n", " ").splitlines()
            continue
        command = ""
        for line in [*body.splitlines(), "$ "]:
            if line.startswith("$ "):
                yield command
                command = line[2:]
            elif command and (line.startswith("    ") or command.endswith("\\")):
                command = f"{command.removesuffix(chr(92))} {line}"
            else:
                yield command
                command = ""


def _commands(page: str) -> Iterator[list[str]]:
    """Yield the words after each ``hotwallet`` that is a command."""
    for script in _scripts(page):
        words = shlex.shlex(script, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        try:
            found = ["\n", *words, "\n"]
        except ValueError:  # The output of a program, or text with an apostrophe.
            assert not re.match(r"(\S+ )?hotwallet ", script), script
            continue
        for number, word in enumerate(found):
            if word.rpartition("/")[2] == "hotwallet" and _is_start(found[number - 1]):
                rest = found[number + 1 :]
                end = next(n for n, each in enumerate(rest) if _ENDS.fullmatch(each))
                yield [each for each in rest[:end] if each != "..."]


def _is_start(word: str) -> bool:
    """Return whether a command follows *word*."""
    return bool(
        _ENDS.fullmatch(word.replace("$(", "(")) or word in _BEFORE_COMMANDS
    ) or bool(_ASSIGNMENT.fullmatch(word))


def _problem(words: list[str]) -> str | None:
    """Return what is wrong with the command *words*, or None."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        while words and words[0].startswith("-"):
            if not any(words[0] in each.opts for each in command.params):
                return None if words[0] in {"--help", "--version"} else words[0]
            words = words[1:]
        if not words:
            return None
        found = command.get_command(context, words[0])
        if found is None:
            return f"there is no command {words[0]}"
        command, words = found, words[1:]
    return _problem_of_parameters(command, words)


def _problem_of_parameters(command: click.Command, words: list[str]) -> str | None:
    options = {
        name: each for each in command.params for name in (*each.opts, "--help")
    } | {name: each for each in command.params for name in each.secondary_opts}
    arguments = [each for each in command.params if isinstance(each, click.Argument)]
    given, rest = 0, iter(words)
    for word in rest:
        name, has_value, _ = word.partition("=")
        if not word.startswith("-"):
            given += 1
        elif (option := options.get(name)) is None:
            return f"there is no option {name}"
        elif isinstance(option, click.Option) and not (option.is_flag or has_value):
            next(rest, None)
    least = sum(each.required for each in arguments)
    most = 99 if any(each.nargs < 0 for each in arguments) else len(arguments)
    return None if least <= given <= most else f"{given} arguments"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_commands_of_a_page_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    wrong = {" ".join(each): _problem(each) for each in _commands(text)}

    assert {each: problem for each, problem in wrong.items() if problem} == {}


def test_the_commands_are_found() -> None:
    """In every place where guides have them; a wrong one is noticed."""
    page = """
```console
$ for i in 1 2; do hotwallet db upgrade; done | hotwallet guard > log  # hotwallet no
loaded hotwallet output
$ TOKEN=$(hotwallet token --role merchant)
$ A=1 hotwallet keys rotate 02 \\
    --yes
```

   ```text
   kubectl -n hotwallet exec deploy/hotwallet-admin -- hotwallet doctor
   /opt/hotwallet/bin/hotwallet stop --reason "a b"
   ```
"""
    found = [*_commands(page)]

    assert found == [
        ["db", "upgrade"],
        ["guard"],
        ["token", "--role", "merchant"],
        ["keys", "rotate", "02", "--yes"],
        ["doctor"],
        ["stop", "--reason", "a b"],
    ]
    assert [_problem(each) for each in found] == [None] * 6
    assert _problem(["keys", "turn", "02"]) == "there is no command turn"
    assert _problem(["keys", "rotate", "02", "--now"]) == "there is no option --now"
    assert _problem(["keys", "rotate"]) == "0 arguments"
    assert sum(len([*_commands(each.read_text())]) for each in PAGES) > 80
