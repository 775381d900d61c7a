"""``hotwallet token`` mints tokens for development."""

import jwt
import pytest

from tests.api.commands import Run


@pytest.fixture
def run(hotwallet: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("APP_ENV", "test")
    monkeypatch.setenv("JWT_ALGORITHM", "HS256")
    monkeypatch.setenv("JWT_SECRET", "s" * 32)
    return hotwallet


def test_prints_the_token_alone(run: Run) -> None:
    minted = run("token", "--role", "admin", "--subject", "alice").out.strip()
    claims = jwt.decode(minted, options={"verify_signature": False})

    assert (claims["sub"], claims["roles"]) == ("alice", ["admin"])


def test_prints_what_the_token_grants_as_json(run: Run) -> None:
    document = run("token", "--scope", "keys:rotate", "--seconds", "60", "--json").json

    assert document.pop("token").count(".") == 2
    assert document == {
        "subject": "developer",
        "roles": ["merchant"],
        "scopes": ["keys:rotate"],
        "expiresIn": 60,
    }
