"""Opens AWS KMS, whose settings are those of the service; ``USE_KMS`` selects it."""

from collections.abc import Iterator
from functools import partial

from signer.config.settings import AWS_KMS
from signer.errors import Refusal
from signer.ports.backend_plugin import BackendConfig, BackendPlugin
from signer.ports.key_backend import KeyDirectory


_ATTEMPTS = 3


class AWSKMSPlugin:
    """See ``BackendPlugin``.  ``signer/startup/guard.py`` checks the settings."""

    name = AWS_KMS
    key_setting = "KMS_KEY_ID"
    modules = ("backends.aws_kms.backend",)

    def key_name(self, config: BackendConfig) -> str:
        return config.settings.kms_key_id or ""

    def refusals(self, config: BackendConfig) -> Iterator[Refusal]:
        yield from ()

    def production_refusal(self, config: BackendConfig) -> None:
        return None

    def open(self, config: BackendConfig) -> KeyDirectory:
        from backends.aws_kms.backend import KMSBackend  # noqa: PLC0415
        from backends.aws_kms.client import build_client  # noqa: PLC0415

        settings = config.settings
        open_client = partial(
            build_client,
            endpoint_url=settings.kms_endpoint,
            max_retries=_limit_attempts(config),
            timeout_ms=settings.kms_timeout_ms,
            max_pool_connections=settings.kms_max_concurrency,
        )
        return KMSBackend(
            open_client(settings.aws_region),
            open_client,
            settings.allowed_keys,
            per_second=settings.kms_signatures_per_second,
        )


def _limit_attempts(config: BackendConfig) -> int:
    """Return how often a call is tried: only a worker has the time for more."""
    configured = config.settings.kms_max_retries
    return configured if config.is_worker else min(configured, _ATTEMPTS)


PLUGIN: BackendPlugin = AWSKMSPlugin()
