"""G19: planted secrets are in no description, error, log, answer or audit record."""

import base64
import io
import json
import secrets
import subprocess
import sys
import traceback
import urllib.parse
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import falcon
import pytest
import structlog
from falcon.testing import Result, TestClient
from pydantic import SecretStr

from api import logs
from api.auth.jwt_verifier import JWTVerifier
from api.bootstrap import open_container
from api.container import Container
from api.http.app import create_app
from api.http.middleware import Resource
from api.logs import audit_logger
from backends.alert_webhook import AlertWebhook
from backends.aws_kms.backend import KMSBackend
from backends.aws_kms.client import build_client
from backends.json_rpc import JSONRPCChain
from backends.jwks_client import JWKSClient
from backends.pkcs11 import PKCS11Backend
from backends.sql import SQLStore
from signer.alerts import Alert, Alerts
from signer.audit.actions import AuditAction
from signer.audit.checkpointer import Checkpointer, CheckpointSettings
from signer.audit.checkpoints import CheckpointKey
from signer.audit.log import AuditLog
from signer.audit.sealer import Sealer
from signer.chain.chain import Chain
from signer.config.networks import Network, load_networks
from signer.config.settings import Settings
from signer.crypto.secp256k1 import Signature
from signer.crypto.transactions import DynamicFeeTransaction, SignedBytes
from signer.errors import BackendError, ConfigurationError, HotWalletError, StoreError
from signer.keys.keyring import KeyRing
from signer.keys.rotation import Rotation
from signer.keys.signer import SignerFactory
from signer.model.audit_record import Actor, Operation, Purpose, Subject
from signer.model.key import Key, KeyState
from signer.ports.key_backend import DeviceSignature, KeyDirectory, KeyId
from softhsm.layout import pin_source, read_pin
from tests.api.service import BODY, replaced
from tests.api.support import SettableClock, bearer, make_verifier, post
from tests.e2e.canaries import ALL, CANARIES, PIECE, Detector, core, value
from tests.support.ledgers import open_ledger


NOW = datetime(2026, 11, 24, tzinfo=UTC)

SETTINGS = {
    "APP_ENV": "test",
    "USE_KMS": "true",
    "KMS_KEY_ID": value("kms-key-arn"),
    "AWS_REGION": value("aws-region"),
    "AWS_ENDPOINT_URL_KMS": f"http://127.0.0.1:1{value('kms-endpoint-path')}",
    "AWS_ENDPOINT_URL": f"http://127.0.0.1:1{value('kms-endpoint-path')}",
    "PKCS11_PIN": value("pkcs11-pin"),
    "PKCS11_KEY_ID": value("cka-id"),
    "DATABASE_URL": (
        f"postgresql://{value('dsn-user')}:{value('dsn-password')}"
        f"@127.0.0.1:1/{value('dsn-database')}"
    ),
    "JWT_ALGORITHM": "HS256",
    "JWT_SECRET": value("jwt-hmac-secret"),
    "JWT_JWKS_URL": f"https://127.0.0.1:1{value('jwks-url-key')}",
    "ALERT_WEBHOOK_URL": f"http://127.0.0.1:1{value('webhook-path-token')}",
    "MERCHANT_WALLET_PRIVATE_KEY": value("raw-key"),
}

_LOGIN = f"{value('rpc-user')}:{value('rpc-password')}"
RPC_URLS = (
    f"http://{_LOGIN}@127.0.0.1:1{value('rpc-path-key')}",
    f"http://127.0.0.1:1{value('rpc-query-key')}",
)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(CANARIES.values())


def test_canaries_are_distinct(detector: Detector) -> None:
    """There are at least fifty, and ordinary output contains none."""
    same = {
        (one.name, other.name)
        for one in CANARIES.values()
        for other in CANARIES.values()
        if one.name < other.name and one.core == other.core
    }

    assert len(CANARIES) >= 50
    assert same == set()
    assert detector.found("refund-delayed, 0x" + "5F" * 20) == set()


SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": lambda text: text,
    "upper": str.upper,
    "lower": str.lower,
    "json": json.dumps,
    "twice-json": lambda text: json.dumps(json.dumps({"a": text})),
    "url": lambda text: urllib.parse.quote(text, safe=""),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64-1": lambda text: base64.b64encode(b"x" + text.encode()).decode(),
    "base64-2": lambda text: base64.b64encode(b"xy" + text.encode()).decode(),
    "base64url": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "hex": lambda text: text.encode().hex(),
    "bytes": lambda text: repr(text.encode()),
    "cut-off": lambda text: text[:PIECE] + "...",
    "its end": lambda text: "..." + text[-PIECE:],
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_the_detector_finds_every_spelling(
    detector: Detector, spelling: Callable[[str], str]
) -> None:
    missed = {
        name
        for name, canary in CANARIES.items()
        if name not in detector.found(f'{{"shown": "{spelling(canary.core)}"}}')
    }

    assert missed == set()


def _descriptions(thing: object) -> str:
    return f"{thing!r} {thing!s} {thing}"


def _settings() -> Settings:
    return Settings.from_env(SETTINGS)


def _kms() -> KMSBackend:
    client = build_client(
        region=value("aws-region"),
        endpoint_url=SETTINGS["AWS_ENDPOINT_URL_KMS"],
        max_retries=1,
        timeout_ms=900,
        max_pool_connections=1,
    )
    return KMSBackend(client)


def _key(name: str = "kms-key-arn") -> Key:
    address = "0x" + "11" * 20
    return Key("aws-kms", value(name), address, KeyState.ACTIVE, NOW, NOW)


def _network() -> Network:
    token = {"address": "0x5FbDB2315678afecb367f032d93F642f64180aa3", "decimals": 6}
    return Network.model_validate(
        {
            "chain_id": 1,
            "rpc_urls": list(RPC_URLS),
            "tokens": {"TUSD": {**token, "max_amount": "1"}},
        }
    )


def _numbers() -> Signature:
    # Shifted, because a canary may exceed the order of the curve.
    r, s = (int(core(f"signature-{name}"), 16) >> 4 for name in "rs")
    return Signature(r, s, 0)


def _transaction() -> DynamicFeeTransaction:
    return DynamicFeeTransaction(
        chain_id=1,
        nonce=0,
        max_priority_fee_per_gas=1,
        max_fee_per_gas=2,
        gas=21_000,
        to="0x5FbDB2315678afecb367f032d93F642f64180aa3",
        value=0,
        data=b"",
    )


def _store() -> SQLStore:
    return open_ledger(SETTINGS["DATABASE_URL"], timeout=0.3)


def _chain() -> Chain:
    return Chain(_network(), JSONRPCChain(_network().rpc_urls, timeout=0.2))


def _verifier() -> JWTVerifier:
    environ = {name: text for name, text in SETTINGS.items() if name != "JWT_JWKS_URL"}
    return make_verifier(Settings.from_env(environ))


DESCRIBED: dict[str, Callable[[], object]] = {
    "Settings": _settings,
    "Settings in a list": lambda: [_settings()],
    "Network": _network,
    "Key": _key,
    "Key in a token": lambda: _key("cka-id"),
    "Subject": lambda: Subject("pkcs11", value("cka-id"), "0x"),
    "Signature": _numbers,
    "DeviceSignature": lambda: DeviceSignature(bytes.fromhex(core("signature-der"))),
    "SignedBytes": lambda: SignedBytes(
        bytes.fromhex(core("raw-transaction")), _transaction(), _numbers()
    ),
    "KMSBackend": _kms,
    "PKCS11Backend": lambda: PKCS11Backend(
        Path("module"), "label", pin_source(_settings())
    ),
    "the PIN's source": lambda: pin_source(_settings()),
    "AlertWebhook": lambda: AlertWebhook(SecretStr(SETTINGS["ALERT_WEBHOOK_URL"])),
    "JWKSClient": lambda: JWKSClient(
        SETTINGS["JWT_JWKS_URL"], timeout=1, allow_http=False, max_bytes=1
    ),
    "SQLStore": _store,
    "Database": lambda: _store()._database,
    "JSONRPCChain": lambda: JSONRPCChain([*_network().rpc_urls], timeout=0.2),
    "Chain": _chain,
    "CheckpointSettings": lambda: CheckpointSettings(
        CheckpointKey.generate(), "hotwallet/tests"
    ),
    "KeyRing": lambda: KeyRing(_store(), lambda key: pytest.fail(str(key))),
    "JWTVerifier": _verifier,
    "the key of tokens": lambda: list(_verifier()._keys.known()),
}


@pytest.mark.parametrize("make", DESCRIBED.values(), ids=DESCRIBED)
def test_repr_and_str_have_no_secrets(
    aws_environment: None, detector: Detector, make: Callable[[], object]
) -> None:
    assert detector.found(_descriptions(make())) == set()


FAILING: dict[str, Callable[[], object]] = {
    "store": lambda: _store().check(),
    "store, reading": lambda: _store().get(value("jwt-merchant")),
    "KMS, no answer": lambda: _kms().public_key(KeyId(value("kms-key-arn"))),
    "KMS, an alias": lambda: _kms().resolve(value("kms-alias-arn")),
    "KMS, no name": lambda: _kms().resolve(value("raw-key")),
    "node": lambda: _chain().client.balance("0x" + "11" * 20),
    "token": lambda: make_verifier(_settings()),
    "module": lambda: PKCS11Backend(
        Path("/nowhere"), value("pkcs11-so-pin"), pin_source(_settings())
    ).public_key(KeyId(value("cka-id"))),
    "no CKA_ID": lambda: PKCS11Backend(
        Path("/nowhere"), "x", pin_source(_settings())
    ).resolve(value("kms-key-arn")),
}


@pytest.mark.parametrize("work", FAILING.values(), ids=FAILING)
def test_errors_have_no_secrets(
    aws_environment: None,
    monkeypatch: pytest.MonkeyPatch,
    detector: Detector,
    log: io.StringIO,
    work: Callable[[], object],
) -> None:
    """Neither messages, causes, tracebacks nor log events contain any."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", value("aws-access-key"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", value("aws-secret-key"))
    monkeypatch.setenv("AWS_SESSION_TOKEN", value("aws-session-token"))

    with pytest.raises(HotWalletError) as caught:
        work()
    structlog.get_logger("test").error("failed", exc_info=caught.value)
    shown = {
        "error": _descriptions(caught.value),
        "traceback": "".join(traceback.format_exception_only(caught.value)),
        "log": log.getvalue(),
    }
    cause = caught.value.__cause__ or caught.value.__context__
    if cause is not None:
        shown["cause"] = "".join(traceback.format_exception_only(cause))

    assert detector.leaks(shown) == {}


INVALID = [
    alias for f in Settings.model_fields.values() if (alias := str(f.alias)).isupper()
]


@pytest.mark.parametrize("name", INVALID)
def test_settings_do_not_quote_a_misplaced_secret(
    detector: Detector, name: str
) -> None:
    shown = []
    for canary in CANARIES.values():
        try:
            Settings.from_env({"APP_ENV": "test", name: canary.value})
        except ConfigurationError as e:
            shown.append(_descriptions(e) + "".join(traceback.format_exception(e)))
    text = "\n".join(shown)

    assert detector.found(text) == set()


MISPLACED = {
    "word": value("pkcs11-pin"),
    "number": value("raw-key"),
    "password": value("dsn-password-odd"),
    "key": value("jwt-signing-key"),
    "set": f'{{"keys":[{{"kty":"oct","k":"{value("jwt-hmac-secret")}"}}]}}',
}


@pytest.fixture(scope="module")
def valid_environ(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """A configuration in which the guard finds only that the device is missing."""
    home = tmp_path_factory.mktemp("home")
    networks = home / "networks.toml"
    example = Path(__file__).parents[2] / "docker" / "networks.example.toml"
    networks.write_text(example.read_text(encoding="utf-8"), encoding="utf-8")
    return {
        "APP_ENV": "test",
        "HOTWALLET_HOME": str(home),
        "NETWORKS_FILE": str(networks),
        "PKCS11_MODULE": "/nowhere",
        "JWT_ALGORITHM": "HS256",
        "JWT_SECRET": value("jwt-hmac-secret"),
    }


def _with_misplaced(
    valid_environ: Mapping[str, str], name: str, misplaced: str
) -> dict[str, str]:
    """Return *valid_environ* with *misplaced*, and what makes the guard read it."""
    environ = dict(valid_environ)
    if name.startswith("JWT_") and name.endswith(("_FILE", "_URL")):
        del environ["JWT_SECRET"], environ["JWT_ALGORITHM"]
    if name.startswith(("KMS_", "AWS_")):
        environ |= {
            "USE_KMS": "true",
            "KMS_KEY_ID": value("kms-key-uuid"),
            "KMS_MAX_RETRIES": "0",
            "KMS_TIMEOUT_MS": "500",
            "AWS_REGION": "eu-central-1",
            "AWS_ENDPOINT_URL_KMS": "http://127.0.0.1:1",
        }
    return environ | {name: misplaced}


@pytest.mark.parametrize("name", INVALID)
def test_the_guard_does_not_quote_a_misplaced_secret(
    *,
    aws_environment: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    detector: Detector,
    valid_environ: Mapping[str, str],
    name: str,
) -> None:
    """The refusal may come from opening what the variable names."""
    monkeypatch.chdir(tmp_path)  # A secret may be used as a path and created.
    monkeypatch.setenv("SOFTHSM2_CONF", "/nowhere")
    shown = {}
    for kind, misplaced in MISPLACED.items():
        with pytest.raises(ConfigurationError) as caught:
            open_container(_with_misplaced(valid_environ, name, misplaced))
        e = caught.value
        shown[kind] = _descriptions(e) + "".join(traceback.format_exception(e))

    assert detector.leaks(shown) == {}


def test_a_malformed_networks_file_is_not_quoted(
    detector: Detector, tmp_path: Path
) -> None:
    path = tmp_path / "networks.toml"
    urls = json.dumps(list(RPC_URLS))
    files = [
        f"rpc_urls = {urls}",
        f"[networks.local]\nchain_id = 1\nrpc_urls = {urls}\n",
        f"[networks.local]\nchain_id = 1\nrpc_urls = {urls[:-1]}\n",
        f"[networks.local]\nchain_id = 1\nrpc_urls = {RPC_URLS[0]}\n",
        f"[networks.local]\nchain_id = '{RPC_URLS[0]}'\nrpc_urls = {urls[0]}]\n",
    ]
    shown = []
    for content in files:
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ConfigurationError) as caught:
            load_networks(path)
        shown.append(_descriptions(caught.value))

    assert detector.found("\n".join(shown)) == set()


@pytest.mark.parametrize("content", [value("pkcs11-pin-file").encode(), b"\xff" * 9])
def test_a_pin_file_is_not_quoted(
    detector: Detector, tmp_path: Path, content: bytes
) -> None:
    """P14: the refusal of a public or malformed PIN file does not quote it."""
    path = tmp_path / "pin"
    path.write_bytes(content)
    path.chmod(0o644)

    with pytest.raises(HotWalletError) as caught:
        read_pin(path)
    assert detector.found(_descriptions(caught.value)) == set()


def test_audit_records_have_no_whole_key_id(detector: Detector) -> None:
    """Records have at most eight characters of key ids."""
    stream = io.StringIO()
    audit = AuditLog(logs.audit_logger(stream))
    purpose = Purpose(Operation.TRANSACTION_SIGNING, network="local", actor="gateway")
    ids = [name for name in CANARIES if name.startswith(("kms-", "cka-", "aws-"))]
    bodies = []
    for name in ids:
        subject = Subject("aws-kms", value(name), "0x")
        for record in (
            audit.intent(purpose, subject, bytes(32)),
            audit.outcome(
                purpose, subject, digest=bytes(32), outcome="success", seconds=1
            ),
        ):
            audit.write(record)
            bodies.append(record.body)

    assert len(ids) > 15
    assert detector.found("".join(bodies)) == set()
    assert detector.found(stream.getvalue()) == set()


def test_audit_records_redact_details(detector: Detector) -> None:
    """Details with a secret's name or format are redacted before they are hashed."""
    names = {
        "pin": "pkcs11-pin",
        "password": "dsn-password",
        "private_key": "raw-key",
        "raw_transaction": "raw-transaction",
        "signature": "signature-der",
        "token": "jwt-hmac-secret",
        "role": "aws-role-arn",
        "caller": "jwt-admin",
    }
    record = AuditLog(logs.audit_logger(io.StringIO())).result(
        AuditAction.DOCTOR_RUN,
        Operation.ADMINISTRATION,
        Actor("tester"),
        **{field: value(name) for field, name in names.items()},
    )

    assert detector.found(record.body) == set()


LOOKS = [
    "kms-key-arn",
    "kms-mrk-arn",
    "kms-alias-arn",
    "aws-role-arn",
    "aws-session-arn",
    "aws-user-arn",
    "aws-access-key",
    "aws-session-key",
    "aws-account",
    "jwt-merchant",
    "jwt-admin",
]


def test_secrets_are_redacted_in_alerts(log: io.StringIO, detector: Detector) -> None:
    """Facts of an alert are redacted in the log and in the notification."""
    documents: list[str] = []

    class Notifier:
        def notify(self, document: Any) -> None:
            documents.append(json.dumps(document))

    for name in LOOKS:
        alerts = Alerts(None, Notifier())
        alerts.sound(Alert.KEY_UNHEALTHY, code=f"no {value(name)} here")

    assert len(documents) == len(LOOKS)
    assert detector.found("".join(documents)) == set()
    assert detector.found(log.getvalue()) == set()


UNCAUGHT = """
import sys, threading
from api.cli import __main__ as cli
from api import logs

@cli.cli.command()
def bug():
    secret = sys.stdin.read()
    thread = threading.Thread(target=fail, args=(secret,))
    thread.start()
    thread.join()
    class Dying:
        def __del__(self):
            fail(secret)
    Dying()
    fail(secret)

def fail(secret):
    raise RuntimeError("cannot use " + secret)

sys.argv = ["hotwallet", "bug"]
cli.main()
"""


def test_uncaught_exceptions_of_commands_have_no_message(detector: Detector) -> None:
    """In any thread, the log has the exception's class and location only."""
    done = subprocess.run(
        [sys.executable, "-c", UNCAUGHT],
        input=ALL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]

    assert (done.returncode, done.stdout) == (1, "")
    assert "RuntimeError" in done.stderr
    assert events == ["thread-died", "unraisable", "uncaught"]
    assert detector.leaks({"stdout": done.stdout, "stderr": done.stderr}) == {}


def _shown(answer: Result) -> str:
    return f"{answer.status}\n{dict(answer.headers)}\n{answer.text}"


def _audit_records(store: SQLStore) -> str:
    Sealer(Checkpointer(store, alerts=Alerts(store))).work()
    return "\n".join(each.record.body for each in store.sealed(0, 10_000))


def _admin(clock: SettableClock) -> dict[str, str]:
    """Return a header with a new token that grants everything."""
    return bearer(
        clock.now,
        roles=["admin", "devops"],
        scope="keys:rotate keys:read metrics:read",
        jti=secrets.token_hex(8),
    )


def _client_that_rotates(
    container: Container, store: SQLStore, backend: KeyDirectory, clock: SettableClock
) -> TestClient:
    audit = AuditLog(audit_logger(io.StringIO()), clock, journal=store)
    rotation = Rotation(
        store,
        SignerFactory(backend, audit),
        read_balances=lambda address: (),
        require_operator=lambda address: None,
        alerts=Alerts(store),
        clock=clock,
    )
    return TestClient(create_app(replaced(container, rotation=rotation)))


def test_answers_and_log_do_not_quote_requests(
    client: TestClient, log: io.StringIO, detector: Detector
) -> None:
    answers = []
    for canary in CANARIES.values():
        text = canary.core
        answers += [
            client.simulate_get("/v1/refunds", headers={"Authorization": text}),
            client.simulate_get(
                "/v1/refunds/rf_0", headers={"Authorization": f"Bearer {text}"}
            ),
            client.simulate_get("/healthz", headers={"Cookie": f"sid={text}"}),
            client.simulate_get("/healthz", params={"key": text}),
            client.simulate_get(f"/v1/{text}", headers=bearer()),
            client.simulate_get(f"/v1/refunds/{text}", headers=bearer()),
            post(client, {**BODY, "network": text}),
            post(client, {**BODY, "token": text}),
            post(client, {**BODY, "recipient": text}),
            post(client, {**BODY, "amount": text}),
            post(client, text),
        ]
        # The answer names the field that it does not know; the log must not.
        post(client, {**BODY, text: "1"})
    shown = {"answers": "\n".join(map(_shown, answers)), "log": log.getvalue()}

    assert {answer.status_code for answer in answers} <= {200, 400, 401, 404, 422}
    assert detector.leaks(shown) == {}


@pytest.mark.parametrize("device", ["kms", "softhsm"])
def test_a_rotation_shows_eight_characters_of_a_key_id(
    request: pytest.FixtureRequest,
    container: Container,
    sqlite_store: SQLStore,
    clock: SettableClock,
    log: io.StringIO,
    detector: Detector,
    device: str,
) -> None:
    name = {"kms": "hasty_kms", "softhsm": "softhsm"}[device]
    backend: KMSBackend | PKCS11Backend = request.getfixturevalue(name)
    client = _client_that_rotates(container, sqlite_store, backend, clock)
    shown = {}
    for canary in CANARIES.values():
        if len(canary.core) <= 8:  # Short names are shown whole.
            continue
        clock.advance(61)  # A new minute of the rate limit.
        answer = client.simulate_post(
            "/v1/admin/kms/rotate",
            body=json.dumps({"newKeyId": canary.core}),
            headers={**_admin(clock), "Content-Type": "application/json"},
        )
        assert answer.status_code in {400, 503}
        shown[canary.name] = _shown(answer)
    clock.advance(61)
    for path in ("/metrics", "/v1/admin/keys", "/readyz"):
        seen = client.simulate_get(path, headers=_admin(clock))
        assert seen.status_code == 200
        shown[path] = _shown(seen)
    shown |= {"audit": _audit_records(sqlite_store), "log": log.getvalue()}

    assert '"event":"key-rotate-refused"' in shown["audit"]
    assert detector.leaks(shown) == {}


class _FailingResource(Resource):
    """A handler that fails, with secrets in its variables and its exception."""

    required_role = None

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        pin = dsn = ALL
        resp.text = pin
        resp.set_header("X-Secret", "x")
        raise self._error from ValueError(dsn)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(ALL),
        KeyError(ALL),
        OSError(1, ALL, ALL),
        UnicodeDecodeError("utf-8", ALL.encode(), 0, 1, ALL),
        HotWalletError(ALL),
        BackendError(ALL),
        StoreError(ALL),
        falcon.HTTPBadRequest(title=ALL, description=ALL),
        falcon.HTTPInternalServerError(title=ALL, description=ALL),
    ],
    ids=lambda error: type(error).__name__,
)
def test_uncaught_exceptions_of_handlers_have_no_message(
    container: Container, log: io.StringIO, detector: Detector, error: BaseException
) -> None:
    """H19: the answer has an id and a code; the log has classes and locations."""
    app = create_app(container)
    app.add_route("/broken", _FailingResource(error))

    answer = TestClient(app).simulate_get("/broken")

    assert answer.status_code >= 400
    assert answer.json["request_id"]
    assert detector.leaks({"answer": _shown(answer), "log": log.getvalue()}) == {}
