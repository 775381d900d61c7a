"""``hotwallet token``: mint a JWT for development."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import click

from api.cli.output import Result, prints


if TYPE_CHECKING:
    from api.auth.jwt_verifier import Role


@click.command()
@click.option(
    "--role",
    "roles",
    multiple=True,
    type=click.Choice(["merchant", "signer", "admin", "devops"]),
    default=["merchant"],
    show_default=True,
    help="A role that the token grants; repeatable.",
)
@click.option(
    "--subject",
    default="developer",
    show_default=True,
    help="The `sub` claim, which decides the tenant.",
)
@click.option(
    "--seconds", default=300, show_default=True, help="Lifetime, 300 at most."
)
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    help="A scope that the token grants, such as keys:rotate; repeatable.",
)
@click.option("--kid", help="The `kid` header; needed if JWT_JWKS_FILE is set.")
@prints
def token(
    roles: tuple[str, ...],
    subject: str,
    seconds: int,
    scopes: tuple[str, ...],
    kid: str | None,
) -> Result:
    """
    Mint a token for development; refused in production.

    Example: curl -H "Authorization: Bearer $(hotwallet token)" URL
    """
    from api.auth.dev_tokens import mint
    from signer.config.settings import Settings

    minted = mint(
        Settings.from_env(os.environ),
        subject=subject,
        roles=cast("tuple[Role, ...]", roles),
        lifetime=timedelta(seconds=seconds),
        scopes=scopes,
        key_id=kid,
    )
    document = {
        "token": minted,
        "subject": subject,
        "roles": roles,
        "scopes": scopes,
        "expiresIn": seconds,
    }
    return Result(document, [minted])
