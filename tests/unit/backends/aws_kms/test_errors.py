"""No text of AWS is in an error, traceback or log."""

import logging
import traceback

import pytest
from botocore import exceptions as botocore  # type: ignore[import-untyped]
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]

from backends.aws_kms.backend import KMSBackend
from backends.aws_kms.errors import map_error, request_id
from dev import kms_faults as faults
from dev.kms_emulator import KMSEmulator
from dev.kms_wire import Fault, Faults
from signer.errors import (
    AccessDeniedError,
    BackendError,
    BackendThrottledError,
    BackendUnavailableError,
)
from signer.ports.key_backend import KeyId
from tests.fixtures.kms import OpenKMS


DIGEST = bytes(range(32))
ROLE = "refund-signer-role"
ENDPOINT = "https://kms.eu-central-1.amazonaws.com"
ARN = f"arn:aws:iam::123456789012:role/{ROLE}"
CANARIES = ("arn:aws", "123456789012", ROLE, "eu-central-1", "amazonaws", "hsm-fleet")

FAULTS: dict[str, Fault] = {
    "access denied": faults.access_denied(),
    "expired": faults.expired_token(),
    "disabled": faults.disabled(),
    "pending deletion": faults.pending_deletion(),
    "not found": faults.not_found(),
    "throttle": faults.throttle(),
    "dependency": faults.dependency_timeout(),
    "unavailable": faults.key_unavailable(),
    "page": faults.html(502),
    "lost reply": faults.drop_reply(),
    "hang": faults.hang(),
    "cut off": faults.cut_off(),
    "code is an ARN": faults.refuse(ARN, ARN),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_no_error_contains_text_of_aws(
    *,
    hasty_kms: KMSBackend,
    kms_emulator: KMSEmulator,
    kms_key: KeyId,
    kms_faults: Faults,
    caplog: pytest.LogCaptureFixture,
    fault: Fault,
) -> None:
    """Neither the error, its traceback and causes, nor a debug log."""
    kms_faults.always("Sign", fault)
    caplog.set_level(logging.DEBUG)

    with pytest.raises(BackendError) as raised:
        hasty_kms.sign_digest(kms_key, DIGEST)

    error = raised.value
    assert error.__cause__ is None
    assert error.__context__ is None
    shown = [str(error), repr(error), *traceback.format_exception(error), caplog.text]
    for canary in (*CANARIES, kms_key, kms_emulator.endpoint.removeprefix("http://")):
        assert canary not in "".join(shown)


def test_the_aws_libraries_do_not_log(
    open_kms: OpenKMS, kms_key: KeyId, caplog: pytest.LogCaptureFixture
) -> None:
    """Even if the root logger has the level DEBUG."""
    caplog.set_level(logging.DEBUG)

    open_kms().sign_digest(kms_key, DIGEST)

    vendors = ("boto3", "botocore", "urllib3")
    assert [r.name for r in caplog.records if r.name.startswith(vendors)] == []


def _client_error(code: object, status: int) -> botocore.ClientError:
    return botocore.ClientError(
        {
            "Error": {"Code": code, "Message": f"{ARN} at {ENDPOINT}"},
            "ResponseMetadata": {"HTTPStatusCode": status, "RequestId": ARN},
        },
        "Sign",
    )


TRANSLATIONS: dict[str, tuple[Exception, type[BackendError]]] = {
    "no endpoint": (
        botocore.EndpointConnectionError(endpoint_url=ENDPOINT, error=ARN),
        BackendUnavailableError,
    ),
    "connect timeout": (
        botocore.ConnectTimeoutError(endpoint_url=ENDPOINT, error=ARN),
        BackendUnavailableError,
    ),
    "read timeout": (
        botocore.ReadTimeoutError(endpoint_url=ENDPOINT, error=ARN),
        BackendUnavailableError,
    ),
    "closed": (
        botocore.ConnectionClosedError(endpoint_url=ENDPOINT, error=ARN),
        BackendUnavailableError,
    ),
    "tls": (
        botocore.SSLError(endpoint_url=ENDPOINT, error=ARN),
        BackendUnavailableError,
    ),
    "proxy": (
        botocore.ProxyConnectionError(proxy_url=ENDPOINT, error=ARN),
        BackendUnavailableError,
    ),
    "http client": (botocore.HTTPClientError(error=ARN), BackendUnavailableError),
    "credential source": (
        botocore.CredentialRetrievalError(provider=ROLE, error_msg=ARN),
        BackendUnavailableError,
    ),
    "metadata service": (
        botocore.MetadataRetrievalError(error_msg=ARN),
        BackendUnavailableError,
    ),
    "parser": (ResponseParserError(ARN), BackendUnavailableError),
    "no credentials": (botocore.NoCredentialsError(), AccessDeniedError),
    "half of the credentials": (
        botocore.PartialCredentialsError(provider=ROLE, cred_var=ARN),
        AccessDeniedError,
    ),
    "no profile": (botocore.ProfileNotFound(profile=ROLE), AccessDeniedError),
    "single sign-on": (botocore.UnauthorizedSSOTokenError(), AccessDeniedError),
    "parameters": (botocore.ParamValidationError(report=ARN), BackendError),
    "anything else": (RuntimeError(ARN), BackendError),
    "AssumeRole refused": (_client_error("AccessDenied", 403), AccessDeniedError),
    "throttled": (
        _client_error("TooManyRequestsException", 429),
        BackendThrottledError,
    ),
    "unknown, 401": (_client_error("Whatever", 401), AccessDeniedError),
    "unknown, 500": (_client_error("Whatever", 500), BackendUnavailableError),
    "unknown, 418": (_client_error(ROLE, 418), BackendError),
    "a list": (_client_error([ARN], 499), BackendError),
    "no answer at all": (botocore.ClientError({}, "Sign"), BackendError),
}


@pytest.mark.parametrize(("theirs", "ours"), TRANSLATIONS.values(), ids=TRANSLATIONS)
def test_every_error_of_boto3_is_mapped(
    theirs: Exception, ours: type[BackendError]
) -> None:
    """The class says whether to retry, and the text is omitted."""
    error = map_error("Sign", theirs)

    assert type(error) is ours
    assert not [canary for canary in CANARIES if canary in str(error)]


def test_an_error_has_code_status_and_request_id() -> None:
    error = botocore.ClientError(
        {
            "Error": {"Code": "DisabledException", "Message": ARN},
            "ResponseMetadata": {
                "HTTPStatusCode": 409,
                "RequestId": "8d0b35e0-46cf-48b9-be99-bf2ebc9ab9fb",
            },
        },
        "Sign",
    )

    assert str(map_error("Sign", error)) == (
        "KMS Sign failed: DisabledException, HTTP 409,"
        " request 8d0b35e0-46cf-48b9-be99-bf2ebc9ab9fb"
    )


def test_a_request_id_is_a_uuid() -> None:
    """Any other text is not passed on."""
    assert request_id({"RequestId": ARN}) is None
    assert request_id({}) is None
