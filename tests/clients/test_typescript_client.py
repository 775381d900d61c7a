"""The TypeScript client: its types, its own tests, and its README."""

import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from signer.ports.clock import utc_now
from signer.webhooks.signatures import PrivateKey, Secret, sign
from tests.clients.conftest import Service
from tests.clients.examples import ROOT, blocks


CLIENT = ROOT / "clients" / "typescript"

_COMPILED = (".d.ts", ".js")
_PAGES = ("CHANGELOG.md", "LICENSE", "README.md", "package.json")

# What the examples leave to the reader.
_CALLS = """
console.log(receive(Buffer.from("{}"), {}));
"""


# What `standardwebhooks` needs, and what Node.js's types are.
_DEPENDENCIES = (
    "@stablelib/base64",
    "@types/node",
    "fast-sha256",
    "standardwebhooks",
    "undici-types",
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the client, which npm has compiled and packed."""
    copy = tmp_path_factory.mktemp("typescript") / "client"
    shutil.copytree(CLIENT, copy, ignore=shutil.ignore_patterns("dist"))
    (copy / "node_modules").symlink_to(ROOT / "node_modules")
    _run(["npm", "pack", "--offline"], cwd=copy)
    return copy


@pytest.fixture(scope="module")
def consumer(package: Path) -> Path:
    """A folder in which the package is installed, with the README as a program."""
    folder = package.parent / "consumer"
    folder.mkdir()
    (tarball,) = package.glob("*.tgz")
    (folder / "package.json").write_text('{"private": true}', encoding="utf-8")
    install = ["npm", "install", "--offline", "--install-links", "--no-audit"]
    local = [str(ROOT / "node_modules" / name) for name in _DEPENDENCIES]
    _run([*install, "--ignore-scripts", str(tarball), *local], cwd=folder)
    examples = "".join(blocks(CLIENT / "README.md", "typescript"))
    (folder / "readme.mts").write_text(examples + _CALLS, encoding="utf-8")
    options = json.loads((CLIENT / "tsconfig.json").read_text(encoding="utf-8"))
    options["compilerOptions"] |= {"skipLibCheck": False, "outDir": "out"}
    options["include"] = ["readme.mts"]
    (folder / "tsconfig.json").write_text(json.dumps(options), encoding="utf-8")
    compiler = ROOT / "node_modules" / "typescript" / "bin" / "tsc"
    _run(["node", str(compiler), "-p", "."], cwd=folder)
    return folder


def _run(command: list[str], environ: Mapping[str, str] = {}, *, cwd: Path) -> str:
    finished = subprocess.run(
        command,
        cwd=cwd,
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


def test_the_package_is_complete(package: Path) -> None:
    """It has the compiled modules with their types, the licence and the pages."""
    (path,) = package.glob("*.tgz")
    with tarfile.open(path) as tar:
        names = {*tar.getnames()}
    modules = [source.stem for source in (CLIENT / "src").glob("*.ts")]

    assert names == {
        *(f"package/dist/src/{name}{end}" for name in modules for end in _COMPILED),
        *(f"package/{name}" for name in _PAGES),
    }


def test_its_own_tests(package: Path, service: Service, tmp_path: Path) -> None:
    """They pass, against scripted answers and against the service."""
    webhooks = tmp_path / "webhooks.json"
    webhooks.write_text(json.dumps(_webhooks()), encoding="utf-8")
    files = sorted(map(str, (package / "dist" / "test").glob("*.test.js")))
    environ = {**service.environ, "WEBHOOKS": str(webhooks)}
    printed = _run(["node", "--test", *files], environ, cwd=package)
    counts = dict(re.findall(r"^\S (\w+) (\d+)$", printed, re.MULTILINE))

    assert int(counts["pass"]) > 40
    assert (counts["fail"], counts["skipped"], counts["todo"]) == ("0", "0", "0")


def test_the_readme(consumer: Path, service: Service) -> None:
    """Its examples compile, pay, and read the events, with the installed package."""
    printed = _run(["node", "out/readme.mjs"], service.environ, cwd=consumer)
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
