"""Development tokens are valid, and cannot be minted in production."""

import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from api.auth.dev_tokens import mint, provide_signing_key
from signer.config.settings import Settings
from signer.errors import AuthenticationError, ConfigurationError, InvalidInputError
from tests.api.support import SettableClock, make_verifier


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    private, public = tmp_path / "jwt" / "signing.pem", tmp_path / "jwt" / "public.pem"
    provide_signing_key(private, public)
    return {
        "APP_ENV": "development",
        "JWT_SIGNING_KEY_FILE": str(private),
        "JWT_PUBLIC_KEY_FILE": str(public),
    }


def test_a_minted_token_is_valid_for_five_minutes(environ: dict[str, str]) -> None:
    settings, clock = Settings.from_env(environ), SettableClock()
    authenticator = make_verifier(settings, clock)
    token = mint(
        settings,
        subject="dev",
        roles=["merchant", "devops"],
        scopes=["keys:read", "keys:rotate"],
        clock=clock,
    )

    caller = authenticator.authenticate(f"Bearer {token}")
    clock.advance(331)

    assert caller.sub == "dev"
    assert caller.roles == {"merchant", "devops"}
    assert caller.scopes == frozenset({"keys:read", "keys:rotate"})
    with pytest.raises(AuthenticationError, match="token-expired"):
        authenticator.authenticate(f"Bearer {token}")


def test_each_token_has_its_own_id(environ: dict[str, str]) -> None:
    """Without scopes it has no such claim."""
    settings = Settings.from_env(environ)
    verifier = make_verifier(settings)
    minted = [mint(settings, subject="dev", roles=["merchant"]) for _ in range(5)]
    callers = [verifier.authenticate(f"Bearer {each}") for each in minted]

    assert len({each.jti for each in callers}) == 5
    assert {each.scopes for each in callers} == {None}


@pytest.mark.parametrize("scope", ["", "a  b", 'a"b', "ä", "a\nb"])
def test_a_malformed_scope_is_refused(environ: dict[str, str], scope: str) -> None:
    with pytest.raises(InvalidInputError) as refusal:
        mint(
            Settings.from_env(environ),
            subject="dev",
            roles=["merchant"],
            scopes=["keys:read", scope],
        )

    assert refusal.value.field == "scope"


def test_mints_with_a_shared_secret() -> None:
    settings = Settings.from_env(
        {"APP_ENV": "test", "JWT_ALGORITHM": "HS256", "JWT_SECRET": "s" * 32}
    )
    token = mint(settings, subject="dev", roles=["merchant"], key_id="dev-1")

    assert make_verifier(settings).authenticate(f"Bearer {token}")


@pytest.mark.parametrize("environment", ["production", "", "Staging"])
def test_production_mints_no_tokens(environ: dict[str, str], environment: str) -> None:
    settings = Settings.from_env(environ | {"APP_ENV": environment})

    with pytest.raises(ConfigurationError, match="dev-tokens-forbidden"):
        mint(settings, subject="dev", roles=["merchant"])


@pytest.mark.parametrize("seconds", [0, -1, 301, 86400])
def test_a_lifetime_is_at_most_five_minutes(
    environ: dict[str, str], seconds: int
) -> None:
    with pytest.raises(InvalidInputError) as refusal:
        mint(
            Settings.from_env(environ),
            subject="dev",
            roles=["merchant"],
            lifetime=timedelta(seconds=seconds),
        )

    assert refusal.value.field == "lifetime"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"JWT_SIGNING_KEY_FILE": ""}, "jwt-not-configured"),
        ({"JWT_SIGNING_KEY_FILE": "missing.pem"}, "jwt-key-invalid"),
    ],
)
def test_a_signing_key_is_required(
    environ: dict[str, str], changes: dict[str, str], code: str
) -> None:
    with pytest.raises(ConfigurationError, match=code):
        mint(Settings.from_env(environ | changes), subject="dev", roles=["merchant"])


def test_concurrent_processes_create_one_key_pair(tmp_path: Path) -> None:
    """Only the owner can read the private key; no temporary file remains."""
    private, public = tmp_path / "a.pem", tmp_path / "b.pem"

    def provide(_: int) -> bytes:
        provide_signing_key(private, public)
        return private.read_bytes()

    with ThreadPoolExecutor(8) as pool:
        seen = set(pool.map(provide, range(16)))
    settings = Settings.from_env(
        {
            "APP_ENV": "test",
            "JWT_SIGNING_KEY_FILE": str(private),
            "JWT_PUBLIC_KEY_FILE": str(public),
        }
    )
    token = mint(settings, subject="dev", roles=["merchant"])

    assert len(seen) == 1
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pem", "b.pem"]
    assert make_verifier(settings).authenticate(f"Bearer {token}")
