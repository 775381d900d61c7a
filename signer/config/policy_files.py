"""Reads the operator's own rules: the files ``*.cedar`` of ``POLICY_DIR``."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from signer.errors import ConfigurationError, Refusal


MAX_BYTES = 2**20
"""Bytes of one file."""

MAX_FILES = 100
"""Files of rules.  Running processes read them again and again."""

EXAMPLES = "examples.toml"
"""What the rules must decide: checked before a running process applies them."""


def read_policy_files(directory: Path | None) -> Mapping[str, str]:
    """
    Return the text of each file ``*.cedar`` in *directory*, by name, in order of names.

    None means that there are no rules beside the default.
    """
    if directory is None:
        return {}
    texts: dict[str, str] = {}
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix == ".cedar")
        if len(paths) > MAX_FILES:
            raise _unusable(f"the folder has more than {MAX_FILES} files *.cedar")
        for path in paths:
            texts[path.name] = _read(path)
    except (OSError, UnicodeDecodeError) as e:
        problem = f"a file or the folder cannot be read ({type(e).__name__})"
        raise _unusable(problem) from None
    if not texts:
        raise _unusable("the folder has no file *.cedar; unset it to have no own rules")
    return texts


def read_own_examples(directory: Path) -> str | None:
    """
    Return the text of ``examples.toml`` in *directory*; None if there is no such file.
    """
    try:
        return _read(directory / EXAMPLES)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as e:
        problem = f"{EXAMPLES} cannot be read ({type(e).__name__})"
        raise _unusable(problem) from None


def _read(path: Path) -> str:
    with open(path, "rb", opener=_open) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise _unusable(f"{path.name} is no regular file")
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise _unusable(f"{path.name} has more than {MAX_BYTES} bytes")
    return content.decode()


def _open(path: str, flags: int) -> int:
    # A pipe must not hold up a process: without a writer, opening it would wait.
    return os.open(path, flags | os.O_NONBLOCK)


def _unusable(problem: str) -> ConfigurationError:
    # Do not show the path: it may be a secret in the wrong variable.
    return ConfigurationError(Refusal("policy-invalid", f"POLICY_DIR: {problem}"))
