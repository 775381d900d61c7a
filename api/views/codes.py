"""The codes of refusals, errors and alerts: what each means, and what to do."""

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files


@cache
def load_codes() -> Sequence[Mapping[str, str]]:
    """Return each code with its kind, title, meaning and cure."""
    text = files("api.views").joinpath("codes.toml").read_text(encoding="utf-8")
    return tuple(
        {"code": code, "kind": kind, **entry}
        for kind, entries in tomllib.loads(text).items()
        for code, entry in entries.items()
    )


def find_code(code: str | None) -> Mapping[str, str] | None:
    return next((each for each in load_codes() if each["code"] == code), None)


def problem_codes() -> Mapping[str, Mapping[str, str]]:
    """Return the entries of the codes that answers of the API have, by code."""
    kinds = {"error", "failure", "http"}
    return {each["code"]: each for each in load_codes() if each["kind"] in kinds}


def failure_codes() -> Sequence[str]:
    """Return the values of ``failure.code`` of a refund."""
    own = [each["code"] for each in load_codes() if each["kind"] == "failure"]
    return "execution-reverted", "token-stopped", *own
