"""The TypeScript client: its types, its own tests, and its README."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from signer.ports.clock import utc_now
from signer.webhooks.signatures import PrivateKey, Secret, sign
from tests.clients.conftest import Service
from tests.clients.examples import ROOT, blocks


CLIENT = ROOT / "clients" / "typescript"

# What the examples leave to the reader.
_CALLS = """
console.log(receive(Buffer.from("{}"), {}));
"""


@pytest.fixture(scope="module")
def built() -> Path:
    """The folder of the compiled client, with the README as a program."""
    folder = CLIENT / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    examples = "".join(blocks(CLIENT / "README.md", "typescript"))
    (folder / "readme.mts").write_text(examples + _CALLS, encoding="utf-8")
    options = {
        "extends": "../tsconfig.json",
        "compilerOptions": {"rootDir": "..", "outDir": "."},
        "include": ["../src", "../test", "readme.mts"],
        "exclude": [],
    }
    (folder / "tsconfig.json").write_text(json.dumps(options), encoding="utf-8")
    compiler = ROOT / "node_modules" / "typescript" / "bin" / "tsc"
    _run(["node", str(compiler), "-p", str(folder)], {})
    return folder


def _run(command: list[str], environ: Mapping[str, str]) -> str:
    finished = subprocess.run(
        command,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_the_options_are_strict() -> None:
    options = json.loads((CLIENT / "tsconfig.json").read_text(encoding="utf-8"))

    assert options["compilerOptions"]["strict"] is True


def test_its_own_tests(built: Path, service: Service, tmp_path: Path) -> None:
    """They pass, against scripted answers and against the service."""
    webhooks = tmp_path / "webhooks.json"
    webhooks.write_text(json.dumps(_webhooks()), encoding="utf-8")
    files = sorted(map(str, (built / "test").glob("*.test.js")))
    environ = {**service.environ, "WEBHOOKS": str(webhooks)}
    printed = _run(["node", "--test", *files], environ)
    counts = dict(re.findall(r"^\S (\w+) (\d+)$", printed, re.MULTILINE))

    assert int(counts["pass"]) > 40
    assert (counts["fail"], counts["skipped"], counts["todo"]) == ("0", "0", "0")


def test_the_readme(built: Path, service: Service) -> None:
    """Its examples compile, pay, and read the events."""
    printed = _run(["node", str(built / "dist" / "readme.mjs")], service.environ)
    lines = printed.splitlines()

    assert re.fullmatch("confirmed 0x[0-9a-f]{64}", lines[0])
    assert lines[1].startswith("refund.accepted ")
    assert lines[-1] == "400"


def _webhooks() -> list[dict[str, object]]:
    """Return messages that the service has signed, or another program."""
    key, other = PrivateKey(b"\x05" * 32), PrivateKey(b"\x06" * 32)
    secret = Secret(b"\x07" * 32)
    body = json.dumps({"id": "evt_1", "data": {"amount": "12.50"}, "text": "\u20ac"})
    public = key.public.format()
    now = utc_now()

    def headers(*keys: PrivateKey | Secret, id_: str = "evt_1") -> Mapping[str, str]:
        return sign(keys, id_, now, body.encode())

    signed = headers(key)
    old = sign([key], "evt_1", now - timedelta(minutes=6), body.encode())
    cases: list[tuple[str, str, Mapping[str, str], list[str], bool]] = [
        ("a key", body, signed, [public], True),
        ("a secret", body, headers(secret), [secret.format()], True),
        ("both", body, headers(other, key, secret), [secret.format(), public], True),
        ("another body", f"{body} ", signed, [public], False),
        ("another key", body, headers(other), [public], False),
        ("another scheme", body, signed, [secret.format()], False),
        ("no key", body, signed, [], False),
        ("another id", body, headers(key, id_="evt_2"), [public], False),
        ("an old message", body, old, [public], False),
        ("no signature", body, {**signed, "webhook-signature": ""}, [public], False),
        (
            "no Base64",
            body,
            {**signed, "webhook-signature": "v1a,% x"},
            [public],
            False,
        ),
        ("no time", body, {**signed, "webhook-timestamp": "now"}, [public], False),
    ]
    names = ("name", "body", "headers", "keys", "isValid")
    return [dict(zip(names, case, strict=True)) for case in cases]
