"""
The console blocks of a document: parse them, run them, and compare their output.

A block is a fence with the language ``console``, also inside of a list.  A line that
begins with ``$ `` is a command; lines indented by four spaces directly after it belong
to it; the rest is its output.  An HTML comment on the line before a fence controls the
block:

``<!-- not run: REASON -->``
    The block is not executed; only its Makefile targets are checked.
``<!-- repeat until it matches -->``
    The commands are repeated until the output is the documented one.
"""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

from tests.support.waiting import eventually


_FENCE = re.compile(
    r"(?:^ *<!-- (?P<note>[^\n]*) -->\n)?^ *```console\n(?P<body>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
# What differs from run to run, except statuses.  The same address, hash, refund id or
# digest in a document must be the same in the output, also in a later block.
_VARIABLE = re.compile(
    r"(?P<exact>(?:\"status\": |\bstatus |HTTP/1\.1 )\d+)"
    r"|(?P<name>0x[0-9a-fA-F]+|rf_[0-9a-f]+|(?<![\w.])(?:[0-9a-f]{16}|[0-9a-f]{64})(?![\w.]))"
    r"|(?P<anything>\.\.\.)"
    r"|(?P<time>\d{4}-\d\d-\d\dT[0-9:.]+(?:Z|\+00:00))"
    r"|(?P<hex>(?:au|evt|req)_[0-9a-f]+)"
    r"|(?P<number>\d+(?:\.\d+)?)"
    r"|(?P<space>\s+)"
)
_LOG_LINE = re.compile(r'^\{.*"logger": ?".*\}\n', re.MULTILINE)
_END = "end-of-command"
_PATIENCE = 60.0

_INHERITED = ("HOME", "LANG", "PATH", "TMPDIR", "USER")


@dataclass(frozen=True, slots=True)
class Step:
    """One command, and the output that the document shows for it."""

    command: str
    output: str


@dataclass(frozen=True, slots=True)
class Block:
    """A fence; a *reason* that is not empty explains why it is not run."""

    steps: tuple[Step, ...]
    reason: str
    repeat: bool


def read_blocks(document: Path) -> list[Block]:
    """
    Return the console blocks of *document*, in order.

    Raises:
        ValueError: A comment before a block is not one of the two that exist.
    """
    return [
        _block(match["note"] or "", dedent(match["body"]))
        for match in _FENCE.finditer(document.read_text(encoding="utf-8"))
    ]


def _block(note: str, body: str) -> Block:
    reason = note.removeprefix("not run: ") if note.startswith("not run: ") else ""
    repeat = note == "repeat until it matches"
    if note and not reason and not repeat:
        raise ValueError(f"unknown comment before a console block: {note}")
    return Block(tuple(_steps(body)), reason, repeat)


def _steps(body: str) -> list[Step]:
    commands: list[list[str]] = []
    outputs: list[list[str]] = []
    for line in body.splitlines():
        if line.startswith("$ "):
            commands.append([line[2:]])
            outputs.append([])
        elif line.startswith("    ") and commands and not outputs[-1]:
            commands[-1].append(line)
        elif outputs:
            outputs[-1].append(line)
        else:
            raise ValueError(f"output without a command: {line}")
    return [
        Step("\n".join(command), "\n".join(output))
        for command, output in zip(commands, outputs, strict=True)
    ]


class Console:
    """
    One shell for a whole document, so that variables are kept.

    *texts* are replaced in every command: the document's port and folder by the test's.
    """

    def __init__(self, folder: Path, texts: Mapping[str, str]) -> None:
        self._texts = dict(texts)
        self._shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=folder,
            # Without the variables that other tests of this process have set.
            env={name: os.environ[name] for name in _INHERITED if name in os.environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def close(self) -> None:
        """End the shell and the jobs that it has in the background."""
        self._shell.communicate("kill $(jobs -p) 2>/dev/null; exit\n", timeout=10)

    def run(self, command: str) -> str:
        """Run *command*; return what it printed, without log lines."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        for text, replacement in self._texts.items():
            command = command.replace(text, replacement)
        self._shell.stdin.write(f"{command}\nprintf '\\n%s\\n' {_END}\n")
        self._shell.stdin.flush()
        lines = []
        for line in self._shell.stdout:
            if line.rstrip("\n") == _END:
                break
            lines.append(line)
        return _LOG_LINE.sub("", "".join(lines)).strip()

    def matches(self, documented: str, printed: str) -> bool:
        """Compare, and remember what the document's addresses and ids are here."""
        pattern, names = _pattern(documented, self._texts)
        match = re.fullmatch(pattern, printed, re.DOTALL)
        if match:
            self._texts |= {name: match[group] for group, name in names.items()}
        return match is not None


def _kind(name: str) -> str:
    """Return a pattern of what may stand for *name* in an output."""
    if name.startswith("0x"):
        return "0x[0-9a-fA-F]+"
    return "rf_[0-9a-f]+" if name.startswith("rf_") else f"[0-9a-f]{{{len(name)}}}"


def _pattern(documented: str, known: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    names: dict[str, str] = {}

    def replace(match: re.Match[str]) -> str:
        text = match[0]
        if match["name"]:
            if text in known:
                return re.escape(known[text])
            group = next((g for g, name in names.items() if name == text), None)
            if group:
                return f"(?P={group})"
            names[group := f"name_{len(names)}"] = text
            return f"(?P<{group}>{_kind(text)})"
        return {
            "exact": re.escape(text),
            "anything": ".*?",
            "time": r"[0-9T:.+-]+Z?",
            "hex": r"\w+",
            "number": r"\d+(?:\.\d+)?",
            "space": r"\s+",
        }[match.lastgroup or ""]

    parts, position = [], 0
    for match in _VARIABLE.finditer(documented):
        parts += [re.escape(documented[position : match.start()]), replace(match)]
        position = match.end()
    return "".join([*parts, re.escape(documented[position:])]), names


def run_block(console: Console, block: Block) -> list[str]:
    """Run *block*; return a report for each step whose output is another one."""
    reports = list[str]()

    def prints_it() -> bool:
        printed = [console.run(step.command) for step in block.steps]
        reports[:] = [
            f"$ {step.command}\n--- documented\n{step.output}\n--- printed\n{output}"
            for step, output in zip(block.steps, printed, strict=True)
            if not console.matches(step.output.strip(), output)
        ]
        return not reports

    # Starting a command takes half a second of CPU time.
    eventually(prints_it, _PATIENCE if block.repeat else 0, pause=1)
    return reports


@dataclass
class Guide:
    """
    A page whose commands a test runs one by one, with what the page assumes between.

    *left_out* has the start of each command that no test can run, with the reason.
    *texts* are replaced in commands and outputs: the page's names by the test's.
    """

    console: Console
    document: Path
    left_out: Mapping[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    _steps: list[Step] = field(init=False)

    def __post_init__(self) -> None:
        self._steps = [
            step
            for block in read_blocks(self.document)
            for step in block.steps
            if not step.command.startswith((*self.left_out,))
        ]

    def follow(self, start: str, *, repeat: bool = False) -> None:
        """
        Run the next command that begins with *start*; its output is the documented one.

        Without a documented output, its status is 0.  With *repeat* it is run until
        this is so.
        """
        step = next(each for each in self._steps if each.command.startswith(start))
        self._steps.remove(step)
        command, output = (self._named(text) for text in (step.command, step.output))
        if not output:
            command = f"{{ {command}\n}} > /dev/null 2>&1; echo status $?"
            output = "status 0"
        reports = run_block(self.console, Block((Step(command, output),), "", repeat))
        assert not reports, reports[0]

    def _named(self, text: str) -> str:
        for old, new in self.texts.items():
            text = text.replace(old, new)
        return text

    def unused(self) -> list[str]:
        """Return the commands that were not run."""
        return [step.command for step in self._steps]
