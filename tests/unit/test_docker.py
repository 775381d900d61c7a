"""The image is built from what has a hash; compose separates the processes."""

import io
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dotenv import dotenv_values
from packaging.requirements import Requirement

from api.cli.configuration_files import process_texts
from signer.config.settings import CREDENTIALS
from tests.support.monitoring import promtool
from tests.unit.published_schemas import schema_errors


ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"

_PINNED = re.compile(r"^(?P<name>[a-z0-9.-]+)(\[[a-z,]+\])?==(?P<version>[^ ;]+)")


def _commands() -> Iterator[list[str]]:
    """Yield the shell commands of the Dockerfile."""
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if line.startswith("RUN "):
            yield from (part.split() for part in line[4:].split("&&"))


def _locked(name: str) -> dict[str, str]:
    """Return the versions in a file of requirements, each of which has a hash."""
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    locked = {}
    for entry in text.replace("\\\n", " ").splitlines():
        if found := _PINNED.match(entry):
            assert "--hash=sha256:" in entry, entry
            locked[found["name"]] = found["version"]
        else:
            assert not entry.strip() or entry.lstrip().startswith("#"), entry
    return locked


def test_everything_that_is_downloaded_has_a_hash() -> None:
    """An installer checks hashes, or it may not download at all."""
    installers = [
        command
        for command in _commands()
        if {"install", "sync", "wheel", "download"} & set(command)
    ]

    assert len(installers) == 4
    for command in installers:
        is_offline = {"--no-index", "--offline"} & set(command)
        assert "--require-hashes" in command or (is_offline and "--no-deps" in command)
        if "wheel" in command:
            assert "--no-build-isolation" in command


def test_nothing_else_is_downloaded() -> None:
    """Also no frontend of another version, which a comment would select."""
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8")

    assert not re.search(
        r"^# *syntax|^ADD|curl|wget|apt-get|http(?!://127)", text, re.MULTILINE
    )


def test_the_build_backend_is_locked() -> None:
    """With the versions of the development environment."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = [Requirement(each) for each in project["build-system"]["requires"]]
    build, dev = _locked("build.txt"), _locked("dev.txt")

    assert _locked("uv.txt")
    assert _locked("runtime.txt")
    for each in needed:
        assert each.specifier.contains(build[each.name])
    assert build.items() <= dev.items()


_DOCKER = """#!/bin/sh
test "$1 $2 $3" = "buildx imagetools inspect" || exit 1
test "$4" != "$FAILS" || { echo "<no value>"; exit 0; }
printf 'sha256:%s\\n' "$(printf %s "$4$SALT" | sha256sum | cut -d' ' -f1)"
"""


PINNED = ("Dockerfile", "development.Dockerfile", "compose.yaml")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the folder, and a ``docker`` that resolves each image to a digest."""
    folder = tmp_path / "docker"
    folder.mkdir()
    for name in (*PINNED, "pin-images"):
        shutil.copy(DOCKER / name, folder)
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(_DOCKER)
    program.chmod(0o755)
    return folder


def _pin(checkout: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    path = f"{checkout.parent / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        [checkout / "pin-images"],
        env={"PATH": path, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def _images(checkout: Path) -> list[str]:
    found = []
    for name in PINNED:
        text = (checkout / name).read_text(encoding="utf-8")
        found += re.findall(r"^(?:ARG BASE=|\s+image: +)(\S+)", text, re.MULTILINE)
    return found


def test_images_are_pinned_by_their_digests(checkout: Path) -> None:
    """Each image gets its digest, keeps its tag, and is pinned anew the next time."""
    before = _images(checkout)
    first = _pin(checkout)
    pinned = _images(checkout)
    second = _pin(checkout, SALT="later")

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert [each.split("@")[0] for each in pinned] == before
    assert all(re.search(r"@sha256:[0-9a-f]{64}$", each) for each in pinned)
    assert sorted(first.stdout.split()) == sorted(set(pinned))
    assert set(pinned).isdisjoint(_images(checkout))
    assert [each.split("@")[0] for each in _images(checkout)] == before
    dockerfile = (checkout / "Dockerfile").read_text(encoding="utf-8")
    assert "\nFROM ${BASE} AS build\n" in dockerfile


def test_an_image_without_a_digest_changes_nothing(checkout: Path) -> None:
    """Neither its own line nor those of the images before it."""
    before = _images(checkout)
    failed = _pin(checkout, FAILS="python:3.13-slim")

    assert failed.returncode == 1
    assert "no digest of" in failed.stderr
    assert _images(checkout) == before


def _services() -> dict[str, str]:
    """Return the lines of each service of compose.yaml, with those that it merges."""
    compose = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    common, services = compose.split("\nservices:\n")
    services, _ = services.split("\nnetworks:\n")
    block = r"((?:(?:  .*)?\n)+)"
    shared = dict(re.findall(rf"^x-[\w-]+: &([\w-]+)\n{block}", common, re.MULTILINE))
    parts = dict(
        re.findall(r"^  ([\w-]+):\n((?:(?:    .*)?\n)+)", services, re.MULTILINE)
    )

    def merge(text: str) -> str:
        return re.sub(r"<<: \*([\w-]+)", lambda m: merge(shared[m[1]]), text)

    return {name: merge(part) for name, part in parts.items()}


WRITTEN = {
    name: dotenv_values(stream=io.StringIO(text), interpolate=False)
    for name, text in process_texts({}).items()
}
"""The environment files of ``hotwallet init``."""


PROCESSES = {
    "api-refunds": "refunds",
    "worker": "worker",
    "admin": "admin",
    "sign": "sign",
}
"""The services that run a process, and the name of its database role."""


@pytest.mark.parametrize("service", PROCESSES)
def test_each_process_has_one_database_role(service: str) -> None:
    """It waits for the grants, and knows the password of its own role only."""
    part, name = _services()[service], PROCESSES[service]
    files = re.findall(r"\.\./([\w]*\.env)", part)
    written = WRITTEN[f"{name}.env"]

    assert f"//hotwallet_{name}@/hotwallet?host=/var/run/postgresql" in part
    assert "grants: {condition: service_completed_successfully}" in part
    assert files == [f"{name}.env"]
    assert written["PGPASSWORD"] == WRITTEN["owner.env"][f"{name.upper()}_PASSWORD"]
    assert f"SERVE_ROLE: {name}" in part or name == "worker"
    assert written.get("SERVE_ROLE") == (None if name == "worker" else name)
    for variable in ("TENANTS_FILE", "MAC_KEY_FILE", "BIND", "TRUSTED_PROXIES"):
        # Compose has other places.
        assert f"{variable}: " in part or variable not in written


def test_only_the_upgrade_has_the_owner() -> None:
    """The superuser makes the roles; the owner upgrades and grants."""
    services = _services()
    informed = {name for name, part in services.items() if "owner.env" in part}
    needed = re.findall(r"getenv \w+ (\w+)", (DOCKER / "roles.sql").read_text())

    assert informed == {"database", "upgrade", "grants"}
    owner = WRITTEN["owner.env"]
    others = {"DATABASE_URL", "PGPASSWORD", "POSTGRES_PASSWORD", "MAC_KEY_FILE"}
    assert {*owner} == {*others, *needed}
    assert owner["PGPASSWORD"] == owner["OWNER_PASSWORD"]
    assert len({*owner.values()}) == len(owner) - 1
    assert "hotwallet_owner@/hotwallet?host=/var/run/postgresql" in services["upgrade"]
    assert "PGUSER: hotwallet_owner" in services["grants"]
    assert "upgrade: {condition: service_completed_successfully}" in services["grants"]
    assert "./grants.sql:/grants.sql:ro" in services["grants"]
    roles = "./roles.sql:/docker-entrypoint-initdb.d/roles.sql:ro"
    assert roles in services["database"]
    assert not any("POSTGRES_USER" in part for part in services.values())


def test_each_role_that_has_grants_is_created() -> None:
    """The file with the grants fails if one does not exist."""
    created = (DOCKER / "roles.sql").read_text(encoding="utf-8")
    role = r"hotwallet_[a-z]+"
    granted = {*re.findall(role, (DOCKER / "grants.sql").read_text())}
    (connect,) = re.findall(r"^GRANT CONNECT .* TO (.*);$", created, re.MULTILINE)

    assert {*re.findall(rf"CREATE ROLE ({role}) LOGIN;", created)} == granted | {
        "hotwallet_owner"
    }
    assert {*connect.split(", ")} == granted


def test_the_process_that_accepts_refunds_can_sign_nothing() -> None:
    """It has no file or variable of a key."""
    services = _services()
    given = WRITTEN["refunds.env"]

    for name in (*CREDENTIALS, "KMS_KEY_ID", "AWS_REGION"):
        assert name not in given
        assert name not in services["api-refunds"]
    assert "/signing" not in services["api-refunds"]
    for name in ("worker", "admin"):
        assert "../signing:/etc/hotwallet/signing:ro" in services[name]
        assert "AUDIT_SIGNING_KEY_FILE: /etc/hotwallet/signing/" in services[name]


def test_the_process_for_other_programs_cannot_sign_the_audit_log() -> None:
    """Nor does it listen outside: its proxy is an operator's."""
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    service = compose["services"]["sign"]

    for given in (service["environment"], WRITTEN["sign.env"]):
        assert "AUDIT_SIGNING_KEY_FILE" not in given
    assert not any("/signing" in volume for volume in service["volumes"])
    assert "ports" not in service
    assert compose["networks"]["programs"]["internal"]


def test_the_proxy_reaches_only_the_process_that_accepts_refunds() -> None:
    """Containers reach each other where they share a network."""
    reach = {}
    for name, part in _services().items():
        listed = re.findall(r"networks: \[(.*)\]", part)
        (block,) = re.findall(r"networks:\n((?: {6}.*\n)+)", part) or [""]
        reach[name] = {*listed, *re.findall(r"^ {6}(\w+):", block, re.MULTILINE)}

    assert reach == {
        "database": set(),
        "upgrade": set(),
        "grants": set(),
        "api-refunds": {"refunds", "front"},
        "worker": {"signing"},
        "admin": {"signing", "administration"},
        "sign": {"signing", "programs"},
        "proxy": {"outside", "front"},
        "prometheus": {"monitoring", "administration"},
        "grafana": {"monitoring"},
    }


def test_the_image_runs_all_that_a_small_deployment_needs() -> None:
    """As a user without privileges, with a health check by the command line."""
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    last_stage = text.rpartition("\nFROM ")[2]

    assert last_stage.endswith('\nCMD ["hotwallet", "up"]\n')
    assert "\nUSER hotwallet\n" in last_stage
    assert 'CMD ["hotwallet", "health"]' in last_stage
    assert last_stage.count("COPY ") == 1


COMPOSE = sorted(DOCKER.glob("compose*.yaml"))


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_files_follow_the_specification(path: Path) -> None:
    """Against the schema of the Compose Specification, which Docker also uses."""
    compose = yaml.safe_load(path.read_text(encoding="utf-8"))

    assert schema_errors("compose-spec", compose) == []
    assert schema_errors("compose-spec", {**compose, "service": {}}) != []


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_what_compose_files_name_exists(path: Path) -> None:
    """The schema cannot know which networks, volumes, services and files exist."""
    compose = yaml.safe_load(path.read_text(encoding="utf-8"))
    services, volumes = compose["services"], {*compose.get("volumes", {})}

    for name, service in services.items():
        assert {*service.get("networks", [])} <= {*compose.get("networks", {})}, name
        assert {*service.get("depends_on", [])} <= {*services}, name
        for source in (each.split(":")[0] for each in service.get("volumes", [])):
            # Files of the folder above are an operator's, except for those of deploy.
            if source.startswith(("./", "../deploy/")):
                assert (path.parent / source).is_file(), source
            elif not source.startswith("../"):
                assert source in volumes, source


def test_only_what_is_asked_for_is_started() -> None:
    """Monitoring and JSON-RPC need a profile, and write nothing to their images."""
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    in_profiles = {
        name: service
        for name, service in compose["services"].items()
        if "profiles" in service
    }

    assert {name: each["profiles"] for name, each in in_profiles.items()} == {
        "sign": ["sign"],
        "prometheus": ["monitoring"],
        "grafana": ["monitoring"],
    }
    for service in in_profiles.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]


@pytest.mark.needs("promtool")
def test_prometheus_accepts_its_configuration(tmp_path: Path) -> None:
    """It reads the shipped rules, and scrapes the only process with metrics."""
    shutil.copy(DOCKER / "monitoring" / "prometheus.yml", tmp_path)
    shutil.copy(ROOT / "deploy" / "prometheus" / "rules.yaml", tmp_path)
    configuration = tmp_path / "prometheus.yml"
    text = configuration.read_text(encoding="utf-8")
    configuration.write_text(text.replace("/etc/prometheus/", f"{tmp_path}/"))

    assert "SUCCESS" in promtool("check", "config", configuration)
    assert '["admin:8080"]' in text
