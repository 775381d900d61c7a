"""The operator of a command, as audit records name them."""

from __future__ import annotations

import getpass
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import click

from signer.errors import AuthenticationError, InvalidInputError, PermissionDeniedError
from signer.model.audit_record import Actor, require_reason
from signer.private_files import is_private


if TYPE_CHECKING:
    from api.container import Container


TOKEN_FILE = "OPERATOR_TOKEN_FILE"  # noqa: S105  The name of a variable.

REASON = click.option(
    "--reason", default="", help="Why, for the audit log and who approves it."
)
"""The option of commands that pass its value to ``identified_operator``."""

_ROLES = frozenset({"admin", "devops"})

_LARGEST_FILE = 16 * 1024

_LONGEST_NAME = 64


def current_operator(reason: str = "") -> Actor:
    """
    Return the user that runs this process, by login name or else by user id.

    *reason* becomes that of the actor, and of the audit records.

    A user of a container need not have a name, and the kill switch must work there too.

    Raises:
        InvalidInputError: *reason* is too long, or not printable.
    """
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # Python 3.13 raises OSError, older versions KeyError.
        name = f"uid-{os.getuid()}"
    # An environment variable may hold anything, also what a terminal would execute.
    plain = name.encode(errors="replace").decode()
    shown = "".join(each if each.isprintable() else "?" for each in plain)
    if reason:
        require_reason(reason)
    return Actor(f"cli:{shown[:_LONGEST_NAME]}", reason=reason)


def identified_operator(container: Container, scope: str, reason: str = "") -> Actor:
    """
    Return the subject of the token in ``OPERATOR_TOKEN_FILE``; the user without one.

    The token needs *scope* and the role of an administrator, and is used up, exactly as
    for a request to the API.  *reason* becomes that of the actor.

    Raises:
        InvalidInputError: The file cannot be read, or *reason* is invalid.
        PermissionDeniedError: The token is not valid, or lacks the role or the scope.
        RateLimitedError: The subject has made too many requests.
        StoreUnavailableError: The database does not answer.
    """
    path = os.environ.get(TOKEN_FILE)
    operator = current_operator(reason)  # An invalid reason uses no token up.
    if not path:
        return operator
    # It imports PyJWT, which an operator without a token does not need.
    from api.auth.authorization import AccessRequest, Permission, require_permission

    permission = Permission(_ROLES, scope, administrative=True)
    request_id = f"cli-{secrets.token_hex(8)}"
    request = AccessRequest(permission, "POST", "cli", "cli", request_id)
    token, caller = _read_token(path), None
    try:
        container.access.check_peer(request)
        caller = container.authenticator.authenticate(f"Bearer {token}")
        require_permission(caller, permission)
        container.access.admit(caller, request)
    except (AuthenticationError, PermissionDeniedError) as e:
        # The reason helps: the user of this command owns the token.
        reason = f"the token in {TOKEN_FILE} is not accepted ({e}): get another one"
        try:
            container.access.refuse(e, request, caller)
        except type(e):
            raise PermissionDeniedError(reason) from None
    known = Actor.from_token(caller.sub, request_id, caller.jti, caller.scopes)
    return known.because(reason)


def _read_token(path: str) -> str:
    try:
        with Path(path).open(encoding="ascii") as file:
            if not is_private(file.fileno()):
                raise InvalidInputError(
                    f"other users can read the file of {TOKEN_FILE}: chmod 600"
                )
            return file.read(_LARGEST_FILE).strip()
    except (OSError, UnicodeDecodeError) as e:
        raise InvalidInputError(
            f"{TOKEN_FILE} cannot be read ({type(e).__name__})"
        ) from None
