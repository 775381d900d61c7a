"""Opens a PKCS#11 token, the key backend of a developer's machine."""

from collections.abc import Iterator

from signer.config.settings import PKCS11
from signer.errors import Refusal
from signer.ports.backend_plugin import BackendConfig, BackendPlugin
from signer.ports.key_backend import KeyDirectory


class PKCS11Plugin:
    """See ``BackendPlugin``.  ``signer/startup/guard.py`` refuses it in production."""

    name = PKCS11
    key_setting = "PKCS11_KEY_ID"
    modules = ("backends.pkcs11", "softhsm.configured_token")

    def key_name(self, config: BackendConfig) -> str:
        return config.settings.pkcs11_key_id

    def refusals(self, config: BackendConfig) -> Iterator[Refusal]:
        yield from ()

    def production_refusal(self, config: BackendConfig) -> None:
        return None

    def open(self, config: BackendConfig) -> KeyDirectory:
        from backends.pkcs11 import PKCS11Backend  # noqa: PLC0415
        from softhsm.configured_token import prepare  # noqa: PLC0415

        module, pin = prepare(config.settings)
        return PKCS11Backend(module, config.settings.pkcs11_token_label, pin)


PLUGIN: BackendPlugin = PKCS11Plugin()
