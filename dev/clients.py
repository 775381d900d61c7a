"""
Generates the types of the clients, and builds them: ``make clients``.

``clients/openapi.json`` is the document of a process that serves refunds.  The
synchronous Python client is the asynchronous one without ``await``.  A test compares
all four files with what is generated now.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from api.http.openapi.document import complete_document, document_of


ROOT = Path(__file__).resolve().parents[1]

DOCUMENT = "clients/openapi.json"
PYTHON = "clients/python/src/hotwallet_client/models.py"
ASYNC = "clients/python/src/hotwallet_client/async_client.py"
SYNC = "clients/python/src/hotwallet_client/client.py"
TYPESCRIPT = "clients/typescript/src/schema.ts"

_TAGS = frozenset({"Refunds", "Tokens"})

# What differs, in this order; the rest of the two modules is the same.
_SYNCHRONOUS = (
    (r"Awaitable\[(None|str|httpx\.Response)\]", r"\1"),
    (r"Awaitable, ", ""),
    (r"\bawait |\basync (?=def|for|with)", ""),
    (r"\bAsync(?=HotWallet|Iterator|Client)", ""),
    (r"__a(?=enter__|exit__)", "__"),
    (r"\baclose\b", "close"),
    (r"\basyncio\b", "time"),
    (r"a coroutine function", "a function"),
    (r"tasks of one event loop", "threads"),
)

_NOTICE = "Generated from openapi.json by `make clients`: change the service instead."


def generate(folder: Path) -> None:
    """Write the four files below *folder*."""
    for name in (DOCUMENT, PYTHON, SYNC, TYPESCRIPT):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    document = folder / DOCUMENT
    text = json.dumps(_document(), indent=1, ensure_ascii=False)
    document.write_text(f"{text}\n", encoding="utf-8")
    _generate_python(document, folder / PYTHON)
    _generate_synchronous(folder / SYNC)
    _generate_typescript(document, folder / TYPESCRIPT)


def _document() -> object:
    """Return the document of the operations that a tenant may call."""
    routes = {
        path: {
            method.upper()
            for method, operation in operations.items()
            if _TAGS.intersection(operation["tags"])
        }
        for path, operations in complete_document()["paths"].items()
    }
    return document_of({path: methods for path, methods in routes.items() if methods})


def _generate_python(document: Path, target: Path) -> None:
    options = {
        "--input": str(document),
        "--input-file-type": "openapi",
        "--output": str(target),
        "--output-model-type": "typing.TypedDict",
        "--target-python-version": "3.11",
        "--enum-field-as-literal": "all",
        "--custom-file-header": f'"""{_NOTICE}"""',
        "--formatters": "builtin",
    }
    flags = (
        "--disable-timestamp",
        "--no-use-closed-typed-dict",  # PEP 728 is not final.
        "--use-schema-description",
        "--use-standard-collections",
        "--use-union-operator",
    )
    pairs = [part for option in options.items() for part in option]
    _run(sys.executable, "-m", "datamodel_code_generator", *pairs, *flags)
    _run(sys.executable, "-m", "ruff", "format", "--quiet", str(target))


def _generate_synchronous(target: Path) -> None:
    text = (ROOT / ASYNC).read_text(encoding="utf-8")
    for pattern, replacement in _SYNCHRONOUS:
        text = re.sub(pattern, replacement, text)
    notice = "# Generated from async_client.py by `make clients`: change that instead."
    target.write_text(f"{notice}\n{text}", encoding="utf-8")
    options = ("--quiet", "--config", str(ROOT / "pyproject.toml"), str(target))
    fixes = ("--fix", "--unsafe-fixes", "--select", "I,UP028")
    _run(sys.executable, "-m", "ruff", "check", *fixes, *options)
    _run(sys.executable, "-m", "ruff", "format", *options)


def _generate_typescript(document: Path, target: Path) -> None:
    program = ROOT / "node_modules" / "openapi-typescript" / "bin" / "cli.js"
    _run("node", str(program), str(document), "--output", str(target))
    text = target.read_text(encoding="utf-8")
    target.write_text(f"/** {_NOTICE} */\n\n{text}", encoding="utf-8")


def _run(*command: str) -> None:
    # Without a network: neither tool needs one.
    environ = {**os.environ, "REDOCLY_TELEMETRY": "off"}
    subprocess.run(
        command, cwd=ROOT, env=environ, check=True, stdout=subprocess.DEVNULL
    )


def build() -> None:
    """Compile the TypeScript client into its folder ``dist``."""
    compiler = ROOT / "node_modules" / "typescript" / "bin" / "tsc"
    _run("node", str(compiler), "-p", str(ROOT / "clients" / "typescript"))


if __name__ == "__main__":
    generate(ROOT)
    build()
