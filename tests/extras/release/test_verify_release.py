"""``hotwallet verify-release`` with bundles of a Sigstore of our own (no world)."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.api.commands import Finished, Run
from tests.api.conftest import hotwallet
from tests.extras.release.local_sigstore import (
    COMMIT,
    REPOSITORY,
    TAG,
    WORKFLOW,
    Build,
    LocalSigstore,
)


__all__ = ["hotwallet"]


@pytest.fixture(scope="module")
def sigstore() -> LocalSigstore:
    return LocalSigstore()


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "hotwallet-1.2.3-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        sbom = json.dumps({"components": [{"name": "falcon"}, {"name": "web3"}]})
        file.writestr("hotwallet-1.2.3.dist-info/sboms/hotwallet.cdx.json", sbom)
    return path


Verify = Callable[..., Finished]


@pytest.fixture
def verify(
    hotwallet: Run, sigstore: LocalSigstore, wheel: Path, tmp_path: Path
) -> Verify:
    """Return a function that verifies the wheel by the text of a bundle."""
    bundle, root = tmp_path / "bundle.jsonl", tmp_path / "trusted_root.jsonl"
    ours = sigstore.trusted_root()
    private = {**ours, "tlogs": []}  # As GitHub's own, which has no public log.
    root.write_text(f"{json.dumps(private)}\n{json.dumps(ours)}\n")

    def run(text: str, *options: str) -> Finished:
        bundle.write_text(text)
        return hotwallet(
            *("verify-release", str(wheel), "--bundle", str(bundle)),
            *("--trusted-root", str(root), "--repository", REPOSITORY),
            *("--workflow", WORKFLOW, "--tag", TAG, *options),
        )

    return run


def test_files_of_the_release_verify(
    verify: Verify, sigstore: LocalSigstore, wheel: Path, tmp_path: Path
) -> None:
    """
    Files that a statement names are accepted without a network, with commit and SBOM.

    A bundle may have statements of others, one a line.
    """
    client = tmp_path / "hotwallet_client-1.2.3.tar.gz"
    client.write_bytes(b"client")
    bundles = [
        sigstore.sign(Build(repository="https://github.com/other/hotwallet"), wheel),
        sigstore.sign(Build(), client, wheel),
    ]
    text = "\n".join(map(json.dumps, bundles))

    printed, document = verify(text), verify(text, str(client), "--json")

    assert printed.status == document.status == 0, printed
    sbom = "hotwallet-1.2.3.dist-info/sboms/hotwallet.cdx.json"
    built = f"built by {REPOSITORY}/{WORKFLOW} at {TAG}, commit {COMMIT}"
    assert printed.out == f"ok       {wheel}: {built}; {sbom} has 2 components\n"
    found = document.json
    assert found["ok"]
    assert [each["sboms"] for each in found["files"]] == [{sbom: 2}, {}]


OTHERS = {
    "repository": Build(repository="https://github.com/other/hotwallet"),
    "workflow": Build(workflow=".github/workflows/other.yml"),
    "branch": Build(ref="refs/heads/main"),
    "tag": Build(ref="refs/tags/v1.2.2"),
    "issuer": Build(issuer="https://issuer.invalid"),
    "own runner": Build(runner="self-hosted"),
    "other statement": Build(predicate="https://in-toto.io/attestation/vulns/v0.1"),
}


@pytest.mark.parametrize("build", OTHERS.values(), ids=OTHERS)
def test_another_identity_is_refused(
    verify: Verify, sigstore: LocalSigstore, wheel: Path, build: Build
) -> None:
    """A statement of another build than the expected one accepts nothing."""
    found = verify(json.dumps(sigstore.sign(build, wheel)))

    assert found.status == 1
    assert found.out.startswith(
        f"refused  {wheel}: no statement of the bundle verifies"
    )
    assert "do not install it: compare --repository, --workflow and --tag" in found.out


def test_a_changed_wheel_is_refused(
    verify: Verify, sigstore: LocalSigstore, wheel: Path
) -> None:
    """A file that differs from the built one is refused, with the names of those."""
    text = json.dumps(sigstore.sign(Build(), wheel))
    with wheel.open("ab") as file:
        file.write(b"\0")

    found = verify(text, "--json")

    assert found.status == 1
    (row,) = found.json["files"]
    assert f"in no verified statement; they are about {wheel.name}" in row["problem"]


def test_a_bundle_of_another_sigstore_is_refused(verify: Verify, wheel: Path) -> None:
    """An attacker's own certificate authority and logs are not trusted."""
    found = verify(json.dumps(LocalSigstore().sign(Build(), wheel)))

    assert (found.status, "CertValidationError" in found.out) == (1, True), found


def test_a_bundle_that_is_cut_or_changed_is_refused(
    verify: Verify, sigstore: LocalSigstore, wheel: Path
) -> None:
    """A cut bundle says so; each of its values, changed or left out, is needed."""
    bundle = sigstore.sign(Build(), wheel)
    text = json.dumps(bundle)
    for end in range(0, len(text), 997):
        cut = verify(text[:end])
        assert cut.status == 2, cut
        assert "is cut, or is not JSON: download it again" in cut.err
    for path in _paths(bundle):
        for change in (_remove, _flip):
            changed = json.loads(text)
            change(changed, path)
            found = verify(json.dumps(changed))
            assert (found.status, found.err) == (1, ""), (path, found)


_Path = tuple[str | int, ...]


def _paths(value: Any, path: _Path = ()) -> list[_Path]:
    """Return the path of each member of a document."""
    if isinstance(value, str):
        return [path]
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    inner = [each for name, child in pairs for each in _paths(child, (*path, name))]
    return [path, *inner] if path else inner


def _parent(document: Any, path: _Path) -> Any:
    for name in path[:-1]:
        document = document[name]
    return document


def _remove(document: Any, path: _Path) -> None:
    del _parent(document, path)[path[-1]]


def _flip(document: Any, path: _Path) -> None:
    """Change a character in the middle of a text; empty a list or an object."""
    parent, name = _parent(document, path), path[-1]
    value = parent[name]
    if not isinstance(value, str):
        parent[name] = type(value)()
        return
    middle = len(value) // 2
    other = "B" if value[middle] == "A" else "A"
    parent[name] = value[:middle] + other + value[middle + 1 :]


def test_unusable_keys_are_named(verify: Verify, tmp_path: Path) -> None:
    """A trusted root without a log, and none without a network, say what to pass."""
    (tmp_path / "other.json").write_text("{}")

    found = verify("{}", "--trusted-root", str(tmp_path / "other.json"))

    assert found.status == 2
    assert "write it with gh attestation trusted-root" in found.err
