"""Reads ``tests/vectors``; the README there has the source of each file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


FOLDER = Path(__file__).parent.parent / "vectors"


@dataclass(frozen=True, slots=True)
class Case:
    """One wycheproof signature: over *message*, by the key *spki*."""

    id: int
    spki: bytes
    valid: bool
    message: bytes
    signature: bytes
    comment: str


def wycheproof(name: str) -> list[Case]:
    """Return the cases of one trimmed wycheproof file."""
    groups = load(name)["groups"]
    return [
        Case(
            id_,
            bytes.fromhex(group["key"]),
            result == "valid",
            bytes.fromhex(message),
            bytes.fromhex(signature),
            comment,
        )
        for group in groups
        for id_, result, message, signature, comment in group["tests"]
    ]


def load(name: str) -> Any:
    """Return the parsed JSON file *name*."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
