"""``hotwallet verify-release``: verify the provenance of a release's files."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from api.cli.options import CommandError, errors_exit_with_2
from api.cli.output import Result, prints
from signer.errors import InvalidInputError


if TYPE_CHECKING:
    from sigstore.verify import Verifier

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

_STATEMENT = "application/vnd.in-toto+json"
_PROVENANCE = "https://slsa.dev/provenance/v1"

_ISSUER = "https://token.actions.githubusercontent.com"  # Of GitHub's workflows.

_NEXT = (
    "do not install it: compare --repository, --workflow and --tag with what you trust,"
    " and get the file and its bundle again from the release"
)


@click.command("verify-release")
@click.argument("files", nargs=-1, required=True, type=_FILE)
@click.option(
    "--bundle",
    type=_FILE,
    required=True,
    help="Signed statements of provenance, as `gh attestation download` writes them.",
)
@click.option(
    "--repository",
    metavar="URL",
    required=True,
    help="That you trust, such as https://github.com/OWNER/hotwallet.",
)
@click.option(
    "--workflow",
    metavar="PATH",
    required=True,
    help="That builds in it, such as .github/workflows/build.yml.",
)
@click.option("--tag", required=True, help="The release, such as v1.2.3.")
@click.option(
    "--trusted-root",
    type=_FILE,
    help="Sigstore's keys, as `gh attestation trusted-root` writes them; nothing is"
    " fetched then.",
)
@prints
def verify_release(
    files: Sequence[Path], bundle: Path, trusted_root: Path | None, **identity: str
) -> Result:
    """
    Verify that a workflow built FILES from a tag, by a signed statement.

    Sigstore certifies the identity of the workflow, and logs the statement.  It covers
    the SBOM, which is in the wheel.

    Exits with 1 if a file is refused, 2 if the command could not check.
    """
    with errors_exit_with_2():
        try:
            verifiers = _open_verifiers(trusted_root)
        except ModuleNotFoundError as e:
            problem = f"verify-release needs {e.name}: pip install 'hotwallet[release]'"
            raise CommandError(problem) from None
        subjects, problem = _verify_bundle(bundle, verifiers, **identity)
        rows = [_verify_file(each, subjects, problem) for each in files]
    is_good = all(row["ok"] for row in rows)
    return Result({"ok": is_good, "files": rows}, map(_line, rows), is_good)


def _open_verifiers(trusted_root: Path | None) -> Sequence[Verifier]:
    from sigstore.errors import Error
    from sigstore.models import TrustedRoot
    from sigstore.verify import Verifier
    from sigstore_models.trustroot.v1 import TrustedRoot as Model

    if trusted_root is None:
        try:
            return [Verifier.production()]
        except Error as e:
            problem = f"Sigstore's keys cannot be fetched ({type(e).__name__})"
        raise CommandError(f"{problem}: pass --trusted-root")
    found = []
    for text in _read_documents(trusted_root):
        # GitHub's own, for private repositories, has no public log.
        with suppress(Error, ValueError):
            found.append(Verifier(trusted_root=TrustedRoot(Model.from_json(text))))
    if not found:
        problem = f"{trusted_root} has no keys of a Sigstore with a transparency log"
        raise InvalidInputError(f"{problem}: write it with gh attestation trusted-root")
    return found


def _read_documents(path: Path) -> Sequence[str]:
    """Return the JSON documents of a file: one, or one a line."""
    text = path.read_text(encoding="utf-8", errors="replace")
    for documents in ([text], text.splitlines()):
        with suppress(ValueError, RecursionError):
            if found := [json.dumps(json.loads(each)) for each in documents]:
                return found
    raise InvalidInputError(f"{path} is cut, or is not JSON: download it again")


def _verify_bundle(
    path: Path,
    verifiers: Sequence[Verifier],
    *,
    repository: str,
    workflow: str,
    tag: str,
) -> tuple[dict[str, dict[str, Any]], str]:
    """Return what verified statements say of each SHA-256, and what others lack."""
    from sigstore.verify import policy

    repository, ref = repository.rstrip("/"), f"refs/tags/{tag}"
    expected = policy.AllOf(
        [
            policy.Identity(identity=f"{repository}/{workflow}@{ref}"),
            policy.OIDCIssuerV2(_ISSUER),
            policy.OIDCSourceRepositoryURI(repository),
            policy.OIDCSourceRepositoryRef(ref),
            policy.OIDCRunnerEnvironment("github-hosted"),
        ]
    )
    subjects, problems = {}, []
    for text in _read_documents(path):
        for verifier in verifiers:
            try:
                statement, commit = _verify_statement(text, verifier, expected)
            except InvalidInputError as e:
                problems.append(str(e))
                continue
            said = {"repository": repository, "workflow": workflow, "tag": tag}
            for each in statement["subject"]:
                row = {**said, "commit": commit, "name": each["name"]}
                subjects[each["digest"].get("sha256", "")] = row
            break
    return subjects, "; ".join(dict.fromkeys(problems))


def _verify_statement(
    text: str, verifier: Verifier, expected: Any
) -> tuple[dict[str, Any], str]:
    """Return the statement of a bundle, and the certified commit."""
    from cryptography.hazmat import asn1
    from sigstore.models import Bundle
    from sigstore.verify import policy

    try:
        bundle = Bundle.from_json(text)
        kind, payload = verifier.verify_dsse(bundle, expected)
        oid = policy.OIDCSourceRepositoryDigest.oid
        extensions = bundle.signing_certificate.extensions
        value: Any = extensions.get_extension_for_oid(oid).value
        commit = asn1.decode_der(str, value.value)
    # Whatever the library raises for an unverified bundle is a refusal.
    except Exception as e:  # noqa: BLE001
        problem = f"{type(e).__name__}: {e}".partition("\n")[0]
    else:
        statement: dict[str, Any] = json.loads(payload)
        if (kind, statement.get("predicateType")) == (_STATEMENT, _PROVENANCE):
            return statement, commit
        problem = "a statement of another kind than SLSA provenance"
    raise InvalidInputError(problem)


def _verify_file(
    path: Path, subjects: dict[str, dict[str, Any]], problem: str
) -> dict[str, Any]:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    row = {"ok": digest in subjects, "file": str(path), "sha256": digest}
    if row["ok"]:
        return {**row, **subjects[digest], "sboms": dict(_read_sboms(path))}
    names = ", ".join(sorted(each["name"] for each in subjects.values()))
    problem = (
        f"its SHA-256 is in no verified statement; they are about {names}"
        if names
        else f"no statement of the bundle verifies ({problem})"
    )
    return {**row, "problem": f"{problem}; {_NEXT}"}


def _read_sboms(path: Path) -> Iterator[tuple[str, int]]:
    """Yield each SBOM in a wheel, with the number of its components."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            for name in wheel.namelist():
                if ".dist-info/sboms/" in name:
                    yield name, len(json.loads(wheel.read(name))["components"])


def _line(row: dict[str, Any]) -> str:
    if not row["ok"]:
        return f"refused  {row['file']}: {row['problem']}"
    built = f"{row['repository']}/{row['workflow']} at {row['tag']}"
    sboms = "".join(f"; {name} has {n} components" for name, n in row["sboms"].items())
    return f"ok       {row['file']}: built by {built}, commit {row['commit']}{sboms}"
