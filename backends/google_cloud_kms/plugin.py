"""Opens Google Cloud KMS, which has variables of its own."""

from collections.abc import Iterator

from backends.google_cloud_kms.options import (
    ENDPOINT,
    FORMAT,
    GoogleCloudKMSOptions,
    is_version_name,
)
from signer.errors import Refusal
from signer.ports.backend_plugin import BackendConfig, BackendPlugin
from signer.ports.key_backend import KeyDirectory
from signer.redact import quiet_vendor_loggers


class GoogleCloudKMSPlugin:
    """See ``BackendPlugin``."""

    name = "google-cloud-kms"
    key_setting = "GOOGLE_CLOUD_KMS_KEY"
    modules = ("backends.google_cloud_kms.backend",)

    def key_name(self, config: BackendConfig) -> str:
        return config.read(GoogleCloudKMSOptions).key or ""

    def refusals(self, config: BackendConfig) -> Iterator[Refusal]:
        options = config.read(GoogleCloudKMSOptions)
        if options.key is None:
            yield Refusal(
                "kms-not-configured",
                f"KEY_BACKEND={self.name} needs {self.key_setting}",
            )
        elif not is_version_name(options.key):
            yield Refusal("kms-not-configured", f"{self.key_setting} {FORMAT}")
        elif options.key not in options.allowed:
            yield Refusal(
                "kms-key-not-allowed",
                f"{self.key_setting} is not one of GOOGLE_CLOUD_KMS_ALLOWED_KEYS; add"
                " it there",
            )

    def production_refusal(self, config: BackendConfig) -> Refusal | None:
        if config.read(GoogleCloudKMSOptions).endpoint is None:
            return None
        return Refusal(
            "kms-endpoint-forbidden",
            "GOOGLE_CLOUD_KMS_ENDPOINT redirects KMS; unset it",
        )

    def open(self, config: BackendConfig) -> KeyDirectory:
        from backends.google_cloud_kms.backend import (  # noqa: PLC0415
            AccessTokens,
            GoogleCloudKMSBackend,
            KMSClient,
            limit_calls,
        )

        quiet_vendor_loggers("google", "urllib3")
        options = config.read(GoogleCloudKMSOptions)
        limits = limit_calls(
            options.timeout_ms / 1000,
            options.max_attempts,
            options.max_concurrency,
            options.signatures_per_second,
        )
        tokens = AccessTokens(limits.attempt)
        client = KMSClient(options.endpoint or ENDPOINT, tokens, limits)
        return GoogleCloudKMSBackend(client, options.allowed)


PLUGIN: BackendPlugin = GoogleCloudKMSPlugin()
