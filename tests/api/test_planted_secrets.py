"""G19: planted secrets in requests, and in what fails behind the routes."""

import io
import json
from collections.abc import Iterator

import falcon
import pytest
from falcon.testing import Result, TestClient

from api.container import Container
from api.http.app import create_app
from api.http.middleware import Resource
from api.logs import audit_logger
from backends.aws_kms import KMSBackend
from backends.pkcs11 import PKCS11Backend
from backends.sql import SQLStore
from dev import kms_faults as faults
from dev.kms_wire import Fault, Faults
from signer.alerts import Alerts
from signer.audit.log import AuditLog
from signer.audit.sealer import Sealer
from signer.errors import BackendError, HotWalletError, StoreError
from signer.keys.rotation import Rotation
from signer.keys.signer import SignerFactory
from signer.ports import KeyDirectory
from tests.api.service import BODY, replaced
from tests.api.support import SettableClock, bearer, post
from tests.support.canaries import ALL, CANARIES, Detector, value


_jti = iter(range(10_000))


@pytest.fixture(scope="module")
def detector() -> Iterator[Detector]:
    """Looks for every canary, and says at the end how often it did."""
    detector = Detector(CANARIES.values())
    yield detector
    assert detector.checked >= 50 * len(detector.outputs) > 0


def _shown(answer: Result) -> str:
    return f"{answer.status}\n{dict(answer.headers)}\n{answer.text}"


def _records(store: SQLStore) -> str:
    """Return all that an export would be made of."""
    Sealer(store, None, Alerts(store)).work()
    return "\n".join(each.record.body for each in store.sealed(0, 10_000))


def _admin(clock: SettableClock) -> dict[str, str]:
    """Return the header of somebody who may do everything, once."""
    return bearer(
        clock.now,
        roles=["admin", "devops"],
        scope="keys:rotate keys:read metrics:read",
        jti=f"a-new-token-{next(_jti):08}",
    )


def _rotating(
    container: Container, store: SQLStore, backend: KeyDirectory, clock: SettableClock
) -> TestClient:
    audit = AuditLog(audit_logger(io.StringIO()), clock, journal=store)
    rotation = Rotation(
        store,
        SignerFactory(backend, audit),
        read_balances=lambda address: (),
        alerts=Alerts(store),
        clock=clock,
    )
    return TestClient(create_app(replaced(container, rotation=rotation)))


def test_requests_are_not_repeated(
    client: TestClient, log: io.StringIO, detector: Detector
) -> None:
    """What a caller puts where it does not belong is in no answer and no log line."""
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
    shown = {str(at): _shown(answer) for at, answer in enumerate(answers)}

    assert {answer.status_code for answer in answers} <= {200, 400, 401, 404, 422}
    assert detector.leaks(shown) == {}
    assert detector.leaks({"log": log.getvalue()}) == {}


@pytest.mark.parametrize("device", ["kms", "softhsm"])
def test_a_rotation_does_not_repeat_its_key(
    request: pytest.FixtureRequest,
    container: Container,
    sqlite_store: SQLStore,
    clock: SettableClock,
    log: io.StringIO,
    detector: Detector,
    device: str,
) -> None:
    """Whatever is asked for as the new key: eight characters are told, and recorded."""
    name = {"kms": "hasty_kms", "softhsm": "softhsm"}[device]
    backend: KMSBackend | PKCS11Backend = request.getfixturevalue(name)
    client = _rotating(container, sqlite_store, backend, clock)
    shown = {}
    for canary in CANARIES.values():
        if len(canary.core) <= 8:  # What is told of a key's name, it is.
            continue
        clock.advance(61)  # Of the administrators' rate, a new minute.
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
    shown |= {"audit": _records(sqlite_store), "log": log.getvalue()}

    assert '"event":"key-rotate-refused"' in shown["audit"]
    assert detector.leaks(shown) == {}


@pytest.mark.parametrize(
    "fault",
    [
        faults.refuse("AccessDeniedException", ALL),
        faults.refuse("NotFoundException", ALL),
        faults.refuse("KMSInternalException", ALL, 500),
        faults.refuse(ALL, ALL),
        faults.body(ALL.encode()),
        faults.access_denied(),
    ],
    ids=["denied", "not-found", "internal", "code", "body", "words"],
)
def test_what_kms_says_stays_inside(
    *,
    container: Container,
    sqlite_store: SQLStore,
    clock: SettableClock,
    hasty_kms: KMSBackend,
    kms_faults: Faults,
    log: io.StringIO,
    detector: Detector,
    fault: Fault,
) -> None:
    """KMS refuses a new key with all its words: answer, audit and log have none."""
    for operation in ("GetPublicKey", "Sign", "DescribeKey"):
        kms_faults.always(operation, fault)
    client = _rotating(container, sqlite_store, hasty_kms, clock)

    answer = client.simulate_post(
        "/v1/admin/kms/rotate",
        body=json.dumps({"newKeyId": value("kms-key-arn")}),
        headers={**_admin(clock), "Content-Type": "application/json"},
    )
    shown = {
        "answer": _shown(answer),
        "audit": _records(sqlite_store),
        "log": log.getvalue(),
    }

    assert answer.status_code == 503
    assert detector.leaks(shown) == {}


class _Broken(Resource):
    """A handler with a bug: secrets in its variables, and in what it raises."""

    required_role = None

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Fail, after half of an answer."""
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
def test_a_bug_in_a_handler_says_nothing(
    container: Container, log: io.StringIO, detector: Detector, error: BaseException
) -> None:
    """H19: the answer has an id and a code, and the log classes and places."""
    app = create_app(container)
    app.add_route("/broken", _Broken(error))

    answer = TestClient(app).simulate_get("/broken")

    assert answer.status_code >= 400
    assert answer.json["request_id"]
    assert detector.leaks({"answer": _shown(answer), "log": log.getvalue()}) == {}
