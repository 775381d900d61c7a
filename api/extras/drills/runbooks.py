"""The steps of each emergency, which guides and drills have in common."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Step:
    """
    One step of a runbook; ``text`` is what the guide says, in Markdown.

    An operator runs ``command``, and a drill does too.  Without one a person acts
    elsewhere, for example as ``example`` shows.  The command asks for confirmation if
    it ``asks``.  ``for_vault`` steps need a network with a vault.  Those ``of_drill``
    play what happens in an emergency: the guide does not have them.
    """

    name: str
    text: str
    command: str = ""
    example: str = ""
    asks: bool = False
    for_vault: bool = False
    of_drill: bool = False


@cache
def load_runbooks() -> Mapping[str, Mapping[str, Sequence[Step]]]:
    """Return the steps of each emergency, by the part of its guide."""
    text = files("api.extras.drills").joinpath("runbooks.toml").read_text("utf-8")
    return {
        name: {part: [Step(**each) for each in steps] for part, steps in parts.items()}
        for name, parts in tomllib.loads(text).items()
    }


def steps_of(drill: str) -> Sequence[Step]:
    return [step for steps in load_runbooks()[drill].values() for step in steps]
