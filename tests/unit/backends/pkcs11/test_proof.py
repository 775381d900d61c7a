"""What production demands of a token and its key, on a module of another name."""

from collections.abc import Callable
from pathlib import Path

import pytest

from backends.pkcs11 import PKCS11Backend
from signer.config.settings import Settings
from signer.errors import KeyNotProtectedError
from signer.ports.key_backend import KeyId
from softhsm.layout import pin_source
from tests.fixtures.softhsm_programs import sign


pytestmark = pytest.mark.needs("cc")

LOCAL, ALWAYS_SENSITIVE, NEVER_EXTRACTABLE = "163", "165", "164"

WEAK = {
    "a key that was imported": ({"STAND_IN_FALSE": LOCAL}, ["pkcs11-key-imported"]),
    "a key that was extractable": (
        {"STAND_IN_FALSE": NEVER_EXTRACTABLE},
        ["pkcs11-key-exposed"],
    ),
    "a key that was readable": (
        {"STAND_IN_FALSE": ALWAYS_SENSITIVE},
        ["pkcs11-key-exposed"],
    ),
    "a device that does not say": (
        {"STAND_IN_UNKNOWN": f"{LOCAL},{ALWAYS_SENSITIVE}"},
        ["pkcs11-key-imported", "pkcs11-key-exposed"],
    ),
    "SoftHSM in capitals": ({"STAND_IN_NAME": "SOFTHSM"}, ["softhsm-module-forbidden"]),
    "everything": (
        {
            "STAND_IN_NAME": "my SoftHSM 3",
            "STAND_IN_FALSE": f"{LOCAL},{NEVER_EXTRACTABLE},{ALWAYS_SENSITIVE}",
        },
        [
            "softhsm-module-forbidden",
            "pkcs11-key-imported",
            "pkcs11-key-exposed",
            "pkcs11-key-exposed",
        ],
    ),
}

Open = Callable[..., PKCS11Backend]


@pytest.fixture
def open_stand_in(
    stand_in_environ: dict[str, str],
    softhsm_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> Open:
    """Open the module in production, with further variables of it."""

    def open_(**variables: str) -> PKCS11Backend:
        for name, value in (stand_in_environ | variables).items():
            monkeypatch.setenv(name, value)
        return PKCS11Backend(
            Path(stand_in_environ["PKCS11_MODULE"]),
            softhsm_settings.pkcs11_token_label,
            pin_source(softhsm_settings),
            is_production=True,
        )

    return open_


@pytest.mark.parametrize(("variables", "codes"), WEAK.values(), ids=WEAK)
def test_production_does_not_use_what_is_not_proved(
    open_stand_in: Open,
    softhsm: PKCS11Backend,
    softhsm_key: KeyId,
    variables: dict[str, str],
    codes: list[str],
) -> None:
    """P9: each weakness has its code, and neither half of the key can be used."""
    sign(softhsm, softhsm_key)  # Outside of production.
    backend = open_stand_in(**variables)

    for use in (
        lambda: backend.public_key(softhsm_key),
        lambda: backend.sign_digest(softhsm_key, bytes(32)),
        lambda: backend.resolve(softhsm_key),
    ):
        with pytest.raises(KeyNotProtectedError) as caught:
            use()
        assert [each.code for each in caught.value.refusals] == codes


def test_production_signs_with_a_key_that_is_proved(
    open_stand_in: Open, softhsm_key: KeyId
) -> None:
    assert sign(open_stand_in(), softhsm_key)
