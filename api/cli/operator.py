"""Who runs a command, as the audit has it."""

import getpass
import os

from signer.model.audit_record import Actor


def invoker() -> Actor:
    """
    Return who runs this process, by the name that his shell has for him.

    A user of a container need not have a name; the kill switch must work all the same.
    """
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # Which of them, is a matter of Python's version.
        name = f"uid-{os.getuid()}"
    # A shell's bytes need not be UTF-8, and no database takes others.
    return Actor(f"cli:{name.encode(errors='replace').decode()}")
