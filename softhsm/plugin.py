"""Opens a PKCS#11 token: SoftHSM on a developer's machine, an HSM in production."""

from collections.abc import Callable, Iterator
from pathlib import Path

from signer.config.settings import PKCS11, Settings
from signer.errors import InvalidInputError, Refusal
from signer.ports.backend_plugin import BackendConfig, BackendPlugin
from signer.ports.key_backend import KeyDirectory
from softhsm import library
from softhsm.layout import Layout, pin_source, restore_copies, use_project_conf


def prepare(settings: Settings) -> tuple[Path, Callable[[], str]]:
    """
    Point this process to the configured token; the module is not loaded yet.

    Returns:
        The path of the module and a function that returns the PIN: the first and the
        last argument of ``PKCS11Backend``.

    Raises:
        ConfigurationError: SoftHSM is not installed (``softhsm-missing``), or a file
            of the token is damaged (``softhsm-damaged``).
    """
    named = settings.pkcs11_module
    if named is None or "softhsm" in named.name.lower():
        use_project_conf(settings.home)
        restore_copies(Layout.of(settings.home))
    return library.require_module(settings), pin_source(settings)


class PKCS11Plugin:
    """
    See ``BackendPlugin``.

    In production, ``signer/startup/guard.py`` checks the settings, and the backend what
    the token shows of its key.
    """

    name = PKCS11
    key_setting = "PKCS11_KEY_ID"
    modules = ("backends.pkcs11", "backends.pkcs11.service_logins")

    def key_name(self, config: BackendConfig) -> str:
        return config.settings.pkcs11_key_id

    def refusals(self, config: BackendConfig) -> Iterator[Refusal]:
        name = config.settings.pkcs11_token_label
        if not name.startswith("pkcs11:"):
            return  # A label may be anything.
        from backends.pkcs11.token_uri import TokenName  # noqa: PLC0415

        try:
            TokenName.parse(name)
        except InvalidInputError as e:
            yield Refusal("settings-invalid", f"PKCS11_TOKEN_LABEL: {e}")

    def production_refusal(self, config: BackendConfig) -> None:
        return None

    def open(self, config: BackendConfig) -> KeyDirectory:
        from backends.pkcs11 import PKCS11Backend  # noqa: PLC0415
        from backends.pkcs11.service_logins import OF_SERVICE  # noqa: PLC0415

        settings = config.settings
        module, pin = prepare(settings)
        return PKCS11Backend(
            module,
            settings.pkcs11_token_label,
            pin,
            is_production=settings.is_production,
            failed=OF_SERVICE,
        )


PLUGIN: BackendPlugin = PKCS11Plugin()
