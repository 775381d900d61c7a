"""Reads checkpoints that an operator kept outside the database, in files and logs."""

import json
import sys
from collections.abc import Iterator

import pytest

from signer.audit.checkpoints import read_notes
from signer.errors import InvalidInputError
from tests.support.audit import chain, checkpoint


NOTES = [checkpoint(chain(5), size).note for size in (2, 5)]
LOGGED = [
    json.dumps({"event": "audit-checkpoint", "size": size, "note": note})
    for size, note in zip((2, 5), NOTES, strict=True)
]
ALIKE = '{"event": "audit-checkpoint-of-another-key", "size": 2}'

KEPT = {
    "a note": (NOTES[1], NOTES[1:]),
    "a note without its last line feed": (NOTES[1].rstrip("\n"), NOTES[1:]),
    "a note with lines as on Windows": (
        "\ufeff" + NOTES[1].replace("\n", "\r\n"),
        NOTES[1:],
    ),
    "notes": ("".join(NOTES), NOTES),
    "notes with lines between": ("\n\n".join([*NOTES, ""]), NOTES),
    "a log": (f'{{"event":"x"}}\nnoise\n{ALIKE}\n{LOGGED[1]}\n', NOTES[1:]),
    "a log of containers": ("".join(f"api-1  | {line}\n" for line in LOGGED), NOTES),
    "a log with times": (f"2026-11-24T12:00:00Z {LOGGED[1]}", NOTES[1:]),
    "a log with labels": (f'{{app="hotwallet"}} {LOGGED[1]}\r\n', NOTES[1:]),
}


@pytest.mark.parametrize("form", KEPT)
def test_reads_each_form_of_a_kept_checkpoint(form: str) -> None:
    """The notes come back as they were signed, in the order of the file."""
    text, notes = KEPT[form]

    assert read_notes(text) == notes


NO_NOTE = "not a checkpoint"

NOT_KEPT = {
    "nothing": ("", NO_NOTE),
    "noise": ("noise", NO_NOTE),
    "quoted": (f"> {NOTES[0]}", NO_NOTE),
    "one of two spoilt": (NOTES[0] + NOTES[1].replace("Merkle", "merkle"), NO_NOTE),
    "an object": ('{"event": "x"}', "contains no checkpoint"),
    "another event": (
        f'{{"event": "x", "of": "audit-checkpoint"}}\n{ALIKE}',
        "contains no checkpoint",
    ),
    "a line cut off": (f"{LOGGED[0]}\n{LOGGED[1][:-9]}", "cut off: copy the log"),
    "a note in a log": (f"{LOGGED[0]}\n{NOTES[1]}", "put them into separate files"),
    "no opening": ('"audit-checkpoint"\n{"a": 1}', "cut off: copy the log"),
    "no note": ('{"event": "audit-checkpoint"}', NO_NOTE),
    "half a character": (
        LOGGED[0].replace("hotwallet/", "hotwallet/\\ud800"),
        NO_NOTE,
    ),
}


@pytest.mark.parametrize("form", NOT_KEPT)
def test_refuses_a_file_without_checkpoints(form: str) -> None:
    """The message names what is wrong with the file; a bad note hides no good one."""
    text, problem = NOT_KEPT[form]

    with pytest.raises(InvalidInputError, match=problem):
        read_notes(text)


@pytest.fixture
def usual_recursion_limit() -> Iterator[None]:
    """The interpreter's limit, which a library of the local chain raises."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    yield
    sys.setrecursionlimit(limit)


@pytest.mark.usefixtures("usual_recursion_limit")
def test_refuses_a_line_that_is_nested_deeply() -> None:
    """Brackets that the parser cannot follow are an error about the file, no crash."""
    line = f'{{"a": {"[" * 100_000}"audit-checkpoint"'

    with pytest.raises(InvalidInputError, match="cut off: copy the log"):
        read_notes(line)
