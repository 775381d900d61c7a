"""The operator of a command, as audit records name them."""

import getpass
import os

from signer.model.audit_record import Actor


def current_operator() -> Actor:
    """
    Return the user that runs this process, by login name or else by user id.

    A user of a container need not have a name, and the kill switch must work there too.
    """
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # Python 3.13 raises OSError, older versions KeyError.
        name = f"uid-{os.getuid()}"
    # An environment variable need not be UTF-8; the database accepts nothing else.
    return Actor(f"cli:{name.encode(errors='replace').decode()}")
