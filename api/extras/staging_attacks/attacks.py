"""What is tried, and what must hold; each attack yields the weaknesses it found."""

import base64
import json
import re
import secrets
import time
from collections.abc import Callable, Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from decimal import Decimal
from http import HTTPStatus
from typing import Any

import jwt
import urllib3
from cryptography.hazmat.primitives.asymmetric import ec

from api.actions.catalogue import ACTIONS
from api.cli.staging import Answer
from api.extras.staging_attacks.target import Target


@dataclass(frozen=True, slots=True)
class Attack:
    """
    An attack, and what is ``expected`` of the deployment.

    ``threat`` is the section of the threat model that it belongs to.
    """

    name: str
    threat: str
    expected: str
    run: Callable[[Target], Iterator[str]]


@dataclass(frozen=True, slots=True)
class Report:
    """What an attack found; nothing if the deployment resists."""

    attack: Attack
    weaknesses: list[str]


_ATTACKS: list[Attack] = []

_Run = Callable[[Target], Iterator[str]]

_STRANGER = "a-client-without-a-token"
_CLIENT = "a-client-with-a-valid-or-stolen-token"
_NEIGHBOUR = "a-tenant-that-takes-what-others-need"

_READS = ("/v1/refunds", "/v1/tokens", "/v1/networks", "/v1/events")

_ADMIN_READS = ("/v1/admin/approvals", "/v1/admin/keys", "/console", "/metrics")

_PLACE = re.compile(r"\{(\w+)\}")

_HELD = 60
"""How many connections are held open."""

_PATIENCE = 5.0
"""How long a request may take beside them, in seconds."""

_WRONG_TOKENS = 400
"""After how many a client is slowed down at the latest."""


def run_attacks(target: Target, only: Container[str] | None = None) -> Iterator[Report]:
    """
    Yield the report of each attack, or of those named in *only*.

    The attack that gets the address of this host limited is the last.
    """
    for attack in _ATTACKS:
        if only is not None and attack.name not in only:
            continue
        try:
            found = list(attack.run(target))
        except (urllib3.exceptions.HTTPError, OSError) as e:
            found = [f"a request got no answer ({type(e).__name__})"]
        yield Report(attack, found)


def _attack(name: str, threat: str, expected: str) -> Callable[[_Run], _Run]:
    def add(run: _Run) -> _Run:
        _ATTACKS.append(Attack(name, threat, expected, run))
        return run

    return add


def _unless(answer: Answer, what: str, *allowed: int) -> Iterator[str]:
    """Yield a weakness unless *answer* has one of the *allowed* statuses."""
    if answer.status not in allowed:
        yield f"{what}: HTTP {answer.status}"


@_attack("no-token", _STRANGER, "without a token nothing is read or paid")
def _no_token(target: Target) -> Iterator[str]:
    for path in _READS:
        yield from _unless(target.ask("GET", path), f"GET {path}", 401)
    body = json.dumps(target.request()).encode()
    headers = {"Idempotency-Key": secrets.token_hex(16)}
    answer = target.ask("POST", "/v1/refunds", body=body, headers=headers)
    yield from _unless(answer, "POST /v1/refunds", 401)


@_attack("token-elsewhere", _STRANGER, "a token counts only in its header")
def _token_elsewhere(target: Target) -> Iterator[str]:
    for name in ("access_token", "token"):
        answer = target.ask("GET", f"/v1/tokens?{name}={target.token}")
        yield from _unless(answer, f"as the parameter {name}", 400, 401)
        answer = target.ask(
            "GET", "/v1/tokens", headers={"Cookie": f"{name}={target.token}"}
        )
        yield from _unless(answer, f"as the cookie {name}", 401)


@_attack("unsigned-token", _STRANGER, "a token without a signature is refused")
def _unsigned(target: Target) -> Iterator[str]:
    claims = _claims(target)
    for name in ("none", "None", "NONE"):
        forged = f"{_part({'alg': name, 'typ': 'JWT'})}.{_part(claims)}."
        answer = target.ask("GET", "/v1/tokens", token=forged)
        yield from _unless(answer, f"the algorithm {name}", 401)
    head, body, _ = target.token.split(".")
    answer = target.ask("GET", "/v1/tokens", token=f"{head}.{body}.")
    yield from _unless(answer, "the signature is left out", 401)


@_attack("forged-token", _STRANGER, "a token that another key has signed is refused")
def _forged(target: Target) -> Iterator[str]:
    claims, key = _claims(target), ec.generate_private_key(ec.SECP256R1())
    own = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    kept = {
        name: value
        for name, value in jwt.get_unverified_header(target.token).items()
        if name in {"kid", "typ"}
    }
    forged = {
        "with a key of its own": jwt.encode(claims, key, "ES256", kept),
        "with its key in the header": jwt.encode(
            claims, key, "ES256", {**kept, "jwk": own}
        ),
        "with the URL of its key": jwt.encode(
            claims, key, "ES256", {**kept, "jku": "https://example.com/keys"}
        ),
        "with a secret of 32 zeros": jwt.encode(claims, bytes(32), "HS256", kept),
    }
    for what, token in forged.items():
        answer = target.ask("GET", "/v1/tokens", token=token)
        yield from _unless(answer, what, 401)


@_attack("changed-token", _STRANGER, "a token whose claims were changed is refused")
def _changed(target: Target) -> Iterator[str]:
    head, _, signature = target.token.split(".")
    claims = _claims(target)
    changes: dict[str, dict[str, Any]] = {
        "more roles": {"roles": ["merchant", "admin"]},
        "another subject": {"sub": "another"},
        "a later end": {"exp": int(time.time()) + 10**7},
    }
    for what, change in changes.items():
        token = f"{head}.{_part({**claims, **change})}.{signature}"
        answer = target.ask("GET", "/v1/tokens", token=token)
        yield from _unless(answer, what, 401)


@_attack("merchant-as-administrator", _CLIENT, "a merchant administers nothing")
def _as_administrator(target: Target) -> Iterator[str]:
    refused = (401, 403, 404, 405, 421)
    for path in _ADMIN_READS:
        answer = target.ask("GET", path, token=target.token)
        # The console asks for a login, and shows nothing before.
        allowed = (*refused, 302, 303) if path == "/console" else refused
        yield from _unless(answer, f"GET {path}", *allowed)
    for action in ACTIONS:
        path = _PLACE.sub(_fill, action.path)
        answer = target.ask("POST", path, token=target.token, body=b"{}")
        yield from _unless(answer, f"POST {path}", *refused)


@_attack("neighbours-refund", _CLIENT, "a tenant sees and cancels only its refunds")
def _neighbours_refund(target: Target) -> Iterator[str]:
    path = f"/v1/refunds/{target.refund_id}"
    for method, each in (("GET", ""), ("GET", "/explain"), ("POST", "/cancel")):
        answer = target.ask(method, path + each, token=target.other_token)
        yield from _unless(answer, f"{method} .../{{refund_id}}{each}", 403, 404)
    for each in ("/v1/refunds", "/v1/events", "/v1/refunds/export"):
        answer = target.ask("GET", each, token=target.other_token)
        if target.refund_id.encode() in answer.body:
            yield f"GET {each} lists it"


@_attack("repeated-request", _CLIENT, "a request that is repeated is paid once")
def _repeated(target: Target) -> Iterator[str]:
    key, session = secrets.token_hex(16), f"attack-{secrets.token_hex(8)}"

    def pay(amount: str = target.smallest) -> Answer:
        return target.pay(key, payment_session_id=session, amount=amount)

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: pay(), range(10)))
    ids = {str(each.document["id"]) for each in (*answers, pay()) if each.is_accepted}
    if len(ids) != 1:
        yield f"eleven requests with one Idempotency-Key made {len(ids)} refunds"
    answer = pay(str(Decimal(target.smallest) * 2))
    yield from _unless(answer, "the key with another amount", 409, 422)


@_attack("amounts", _CLIENT, "an amount that is not allowed is not paid")
def _amounts(target: Target) -> Iterator[str]:
    most = Decimal(target.asset["max_amount"])
    amounts: list[Any] = [
        *("0", "-1", "1e0", "NaN", "Infinity", "0x1", " 1", "1_0", "1,0", "\u0661"),
        f"0.{'0' * target.asset['decimals']}1",
        f"{most + 1:f}",
        f"{most * 10**30:f}",
        *(1, 1.5, True, None, [target.smallest]),
    ]
    for amount in amounts:
        answer = target.pay(amount=amount)
        yield from _unless(answer, f"the amount {amount!r}", 400, 422)


@_attack("recipients", _CLIENT, "an address that cannot be paid is refused")
def _recipients(target: Target) -> Iterator[str]:
    swapped = target.recipient[2:].swapcase()
    for recipient in (
        *(
            "",
            "0x",
            "0x0",
            "vitalik.eth",
            target.recipient[:-1],
            target.recipient + "0",
        ),
        *("0x" + "0" * 40, target.asset["address"]),
        *(["0x" + swapped] if swapped != target.recipient[2:] else []),
    ):
        answer = target.pay(recipient=recipient)
        yield from _unless(answer, f"the recipient {recipient!r}", 400, 422)


@_attack("bodies", _CLIENT, "a body that is not exactly a request is refused")
def _bodies(target: Target) -> Iterator[str]:
    valid = json.dumps(target.request())
    bodies = {
        "an unknown field": json.dumps(target.request(priority="high")),
        "a field twice": valid[:-1] + f', "amount": "{target.smallest}"}}',
        "a list": f"[{valid}]",
        "no JSON": "amount=1",
        "two documents": valid + valid,
        "deep lists": "[" * 50_000,
        "more than a megabyte": json.dumps(target.request(reference="r" * 1_100_000)),
        "no field": "{}",
    }
    for what, body in bodies.items():
        headers = {"Idempotency-Key": secrets.token_hex(16)}
        # A server may close the connection while it gets too much.
        with suppress(urllib3.exceptions.ProtocolError):
            answer = target.ask(
                "POST",
                "/v1/refunds",
                token=target.token,
                body=body.encode(),
                headers=headers,
            )
            yield from _unless(answer, what, 400, 413, 422)
    answer = target.ask(
        "POST",
        "/v1/refunds",
        token=target.token,
        body=valid.encode(),
        headers={"Idempotency-Key": "k" * 32, "Content-Type": "text/plain"},
    )
    yield from _unless(answer, "text/plain", 400, 415)
    answer = target.ask("POST", "/v1/refunds", token=target.token, body=valid.encode())
    yield from _unless(answer, "no Idempotency-Key", 400)


@_attack("quoted-values", _CLIENT, "no answer quotes a value, or shows the program")
def _quoted(target: Target) -> Iterator[str]:
    canary = f"canary{secrets.token_hex(12)}"
    answers = [
        target.pay(recipient=canary),
        target.pay(amount=canary),
        target.pay(network=canary),
        target.ask("GET", f"/v1/refunds/{canary}", token=target.token),
        target.ask("GET", "/v1/tokens", token=canary),
    ]
    for answer in answers:
        for text in (canary, "Traceback", "site-packages"):
            if text.encode() in answer.body:
                yield f"an answer with HTTP {answer.status} has {text}"


@_attack("json-rpc", _CLIENT, "a merchant signs nothing by JSON-RPC")
def _json_rpc(target: Target) -> Iterator[str]:
    wallet = "0x" + "0" * 40
    calls: dict[str, list[Any]] = {
        "eth_accounts": [],
        "eth_sign": [wallet, "0x00"],
        "personal_sign": ["0x00", wallet],
        "eth_signTransaction": [{"from": wallet, "to": target.recipient}],
        "eth_sendTransaction": [{"from": wallet, "to": target.recipient}],
        "eth_sendRawTransaction": ["0x00"],
    }
    for method, params in calls.items():
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = target.ask(
            "POST", "/rpc", token=target.token, body=json.dumps(body).encode()
        )
        if "result" in answer.document:
            yield f"{method} has a result"


@_attack("headers", _STRANGER, "answers say how browsers and caches must treat them")
def _headers(target: Target) -> Iterator[str]:
    answer = target.ask("GET", "/v1/tokens", token=target.token)
    if answer.headers.get("X-Content-Type-Options") != "nosniff":
        yield "/v1/tokens: no X-Content-Type-Options: nosniff"
    if "no-store" not in answer.headers.get("Cache-Control", ""):
        yield "/v1/tokens: no Cache-Control: no-store"
    if any(each.isdigit() for each in answer.headers.get("Server", "")):
        yield "the header Server names a version"
    if answer.headers.get("Access-Control-Allow-Origin"):
        yield "other origins may read /v1/tokens"


@_attack("transport", _STRANGER, "tokens travel encrypted")
def _transport(target: Target) -> Iterator[str]:
    answer = target.ask("GET", "/v1/tokens", token=target.token)
    if target.is_secure and "Strict-Transport-Security" not in answer.headers:
        yield "no Strict-Transport-Security"
    if not target.is_secure and target.host not in {"localhost", "127.0.0.1", "::1"}:
        yield "tokens travel without TLS"


@_attack("console-page", _STRANGER, "a browser runs no script of others in the console")
def _console_page(target: Target) -> Iterator[str]:
    page = target.ask("GET", "/console/login")
    if page.status != HTTPStatus.OK:
        return  # This URL has no console.
    policy = page.headers.get("Content-Security-Policy", "")
    if "default-src 'none'" not in policy or "unsafe" in policy:
        yield "its Content-Security-Policy permits more than it needs"
    if "frame-ancestors 'none'" not in policy:
        yield "other pages may frame it"


@_attack("smuggling", _STRANGER, "a request that proxies read in two ways is refused")
def _smuggling(target: Target) -> Iterator[str]:
    inner = f"GET /v1/tokens HTTP/1.1\r\nHost: {target.host}\r\n\r\n"
    framings = {
        "two lengths": f"Content-Length: 0\r\nContent-Length: {len(inner)}\r\n",
        "a length and chunks": (
            f"Content-Length: {len(inner)}\r\nTransfer-Encoding: chunked\r\n"
        ),
        "an unknown encoding": "Transfer-Encoding: xchunked\r\n",
        "a space before the colon": f"Content-Length : {len(inner)}\r\n",
        "a signed length": "Content-Length: +0\r\n",
    }
    for what, framing in framings.items():
        head = f"POST /v1/refunds HTTP/1.1\r\nHost: {target.host}\r\n{framing}"
        answered = target.send_raw(f"{head}Connection: close\r\n\r\n{inner}".encode())
        statuses = [
            line.split()[1] for line in answered.split(b"\r\n") if b"HTTP/1" in line[:6]
        ]
        if len(statuses) > 1 or (statuses and statuses[0] not in {b"400", b"501"}):
            yield f"{what}: {b', '.join(statuses).decode()}"


@_attack("held-connections", _NEIGHBOUR, "slow connections do not delay other clients")
def _held(target: Target) -> Iterator[str]:
    begun = f"POST /v1/refunds HTTP/1.1\r\nHost: {target.host}\r\nX-Slow: ".encode()
    with ExitStack() as held:
        for _ in range(_HELD):
            connection = held.enter_context(target.connect())
            connection.sendall(begun)
        began = time.monotonic()
        answer = target.ask("GET", "/v1/tokens", token=target.other_token)
        seconds = time.monotonic() - began
    yield from _unless(answer, f"beside {_HELD} slow connections", 200)
    if seconds > _PATIENCE:
        yield f"a request beside {_HELD} slow connections took {seconds:.1f} s"


@_attack("guessed-tokens", _STRANGER, "a client that guesses tokens is slowed down")
def _guessed(target: Target) -> Iterator[str]:
    def guess(_: int) -> int:
        token = secrets.token_hex(16)
        return target.ask("GET", "/v1/tokens", token=token, is_patient=False).status

    with ThreadPoolExecutor(8) as pool:
        statuses = set(pool.map(guess, range(_WRONG_TOKENS)))
    if HTTPStatus.TOO_MANY_REQUESTS not in statuses:
        yield f"{_WRONG_TOKENS} wrong tokens were refused one by one, without a limit"
    if statuses - {401, 429, 503}:
        yield f"a wrong token got HTTP {min(statuses - {401, 429, 503})}"


def _fill(place: re.Match[str]) -> str:
    """Return a valid value for a *place* of a path."""
    return {"address": "0x" + "0" * 40, "digest": "0" * 64}.get(place[1], "none")


def _claims(target: Target) -> dict[str, Any]:
    return dict(jwt.decode(target.token, options={"verify_signature": False}))


def _part(content: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()
