"""The port of packages that add a key backend (``CONTRIBUTING.md``)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from pydantic import BaseModel

from signer.config.models import read_model
from signer.config.settings import Settings
from signer.errors import Refusal
from signer.ports.key_backend import KeyDirectory


GROUP = "hotwallet.backends"
"""The group of entry points in which packages publish a ``BackendPlugin``."""

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class BackendConfig:
    """
    What a plugin may read: the service's ``settings``, and the environment.

    *is_worker* is False if a client or an operator waits for each call.
    """

    settings: Settings
    environ: Mapping[str, str] = field(repr=False)
    is_worker: bool = False

    def read(self, model: type[Model]) -> Model:
        """
        Return the plugin's own variables, by the aliases of *model*'s fields.

        Raises:
            ConfigurationError: ``settings-invalid``, without the invalid values.
        """
        return read_model(model, self.environ)


class BackendPlugin(Protocol):
    """
    Makes one kind of key backend available under a name.

    ``KEY_BACKEND`` selects the plugin; that its package is installed does not.  A
    plugin is loaded only in a process that uses a key, and only if it is selected.  No
    method may send a request or open a device.
    """

    @property
    def name(self) -> str:
        """
        The value of ``KEY_BACKEND``.

        It is also the name of the entry point and of the key backend, so it must never
        change: the key ring and the audit log contain it.
        """

    @property
    def key_setting(self) -> str:
        """The variable that names the first key: ``KMS_KEY_ID``."""

    @property
    def modules(self) -> Sequence[str]:
        """The modules to import before the fork; importing them opens nothing."""

    def key_name(self, config: BackendConfig) -> str:
        """Return the value of ``key_setting``, or its default."""

    def refusals(self, config: BackendConfig) -> Iterable[Refusal]:
        """Yield why the settings are unusable, for the start-up guard."""

    def production_refusal(self, config: BackendConfig) -> Refusal | None:
        """
        Return why production may not sign with this configuration, or None.

        Examples are a device for development and an emulator's URL.  Outside of
        production, the guard only warns.
        """

    def open(self, config: BackendConfig) -> KeyDirectory:
        """
        Return the backend, whose ``name`` is the plugin's; call it after the fork.

        Raises:
            ConfigurationError: The settings are unusable.
        """
