"""The manifests of Kubernetes and the units of systemd keep the processes apart."""

import io
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from itertools import product
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from dotenv import dotenv_values

from api.auth.dev_tokens import provide_signing_key
from api.bootstrap import check_configuration
from api.cli.__main__ import cli
from api.cli.audit import create_key
from api.cli.configuration_files import process_texts
from api.extras.open_telemetry.settings import TraceSettings
from api.extras.screening.settings import ScreeningSettings
from api.extras.top_ups.settings import TreasurySettings
from api.key_files import create_mac_key
from api.principal import is_proxy
from signer.config.settings import CREDENTIALS, Settings
from tests.unit.published_schemas import schema_errors


ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))

_VERSIONS = ("1.31", "1.37")
_LARGEST_EXPOSURE = 15  # Tenths: `systemd-analyze security` calls 1.5 "OK".
_VARIABLES = {
    str(field.alias)
    for settings in (Settings, ScreeningSettings, TraceSettings, TreasurySettings)
    for field in settings.model_fields.values()
}
_WRITTEN = {
    name.removesuffix(".env"): dotenv_values(stream=io.StringIO(text))
    for name, text in process_texts({}).items()
}
"""The settings of `hotwallet init`, which name files without a folder."""


def _documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(KUBERNETES.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            yield path.name, document


MANIFESTS = {
    f"{document['kind']} {document['metadata']['name']}": document
    for _, document in _documents()
    if document["kind"] != "Kustomization"
}


def _pod_template(document: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = document["spec"]
    if document["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    template: dict[str, Any] = spec["template"]
    return template


TEMPLATES = {
    name.split("-", 1)[1]: _pod_template(document)
    for name, document in MANIFESTS.items()
    if document["kind"] in {"Deployment", "Job", "CronJob"}
}
PODS = {role: template["spec"] for role, template in TEMPLATES.items()}
SETTINGS = {
    name.split(" ")[1]: document["data"]
    for name, document in MANIFESTS.items()
    if document["kind"] == "ConfigMap" and "proxies" not in name
}


def _require_command(command: list[str]) -> None:
    """Require that *command*, from ``hotwallet`` on, is one with these options."""
    found: click.Command = cli
    context = click.Context(cli)
    words = iter(command[1:])
    for word in words:
        if not isinstance(found, click.Group):
            found.make_context(word, [word, *words])
            return
        child = found.get_command(context, word)
        assert child is not None, command
        found = child


@pytest.mark.parametrize("version", _VERSIONS)
def test_the_manifests_are_valid(version: str) -> None:
    """Also strictly: a misspelt field would be ignored."""
    # It takes two seconds to import, in each process that collects tests.
    import kubernetes_validate  # type: ignore[import-untyped]  # noqa: PLC0415

    for manifest in MANIFESTS.values():
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.needs("kubectl")
def test_kustomize_renders_every_manifest(tmp_path: Path) -> None:
    """All but the job that upgrades the schema, which is applied before."""
    copy = tmp_path / "kubernetes"
    shutil.copytree(KUBERNETES, copy)
    listed = copy / "kustomization.yaml"
    text = listed.read_text(encoding="utf-8")
    text = text.replace("resources:\n", "resources:\n  - sign.yaml\n", 1)
    text = text.replace(
        "newName: registry.example.com", "newName: registry.example.org"
    )
    listed.write_text(text, encoding="utf-8")

    rendered = {
        f"{document['kind']} {document['metadata']['name']}": document
        for document in yaml.safe_load_all(_kustomize(copy))
    }

    assert rendered.keys() == MANIFESTS.keys() - {"Job hotwallet-upgrade"}
    for name, document in rendered.items():
        if document["kind"] != "Namespace":
            assert document["metadata"]["namespace"] == "hotwallet", name
    images = {
        container["image"].rpartition(":")[0]
        for document in rendered.values()
        if document["kind"] in {"Deployment", "CronJob"}
        for container in _pod_template(document)["spec"]["containers"]
    }
    assert images == {"registry.example.org/hotwallet"}


def _kustomize(folder: Path) -> str:
    return subprocess.run(
        ["kubectl", "kustomize", folder], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("role", PODS)
def test_a_pod_has_no_privileges(role: str) -> None:
    """It could be admitted by the Pod Security Standard "restricted"."""
    pod = PODS[role]

    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod["automountServiceAccountToken"]
    assert not pod["enableServiceLinks"]
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("role", PODS)
def test_a_pod_mounts_what_it_names(role: str) -> None:
    """
    Each mount has a volume, and each file of a setting is in a mounted folder.

    Each pod has the key of the MACs, also the one that makes the ledger.
    """
    pod = PODS[role]
    (container,) = pod["containers"]
    given = [each["value"] for each in container["env"] if "value" in each]
    for source in container.get("envFrom", []):
        given += SETTINGS[source["configMapRef"]["name"]].values()
    files = {value for value in map(str, given) if value[0] == "/"}
    mounted = {each["mountPath"] for each in container["volumeMounts"]}
    named = {
        each["name"]
        for part in [*pod.get("initContainers", []), container]
        for each in part["volumeMounts"]
    }

    assert named == {each["name"] for each in pod["volumes"]}
    assert {str(Path(file).parent) for file in files} <= mounted
    assert "/run/hotwallet/mac.key" in given
    assert "'key': 'mac.key'" in str(pod["volumes"])
    is_given = "hotwallet-webhooks" in str(pod["volumes"])
    assert is_given is (role == "worker")  # The key that signs events.


@pytest.mark.parametrize("role", PODS)
def test_a_pod_runs_a_command_with_known_settings(role: str) -> None:
    (container,) = PODS[role]["containers"]
    named = {each["name"] for each in container["env"]}
    for source in container.get("envFrom", []):
        named |= SETTINGS[source["configMapRef"]["name"]].keys()

    _require_command(container["command"])
    assert named <= _VARIABLES


def test_the_pod_that_accepts_refunds_has_nothing_that_signs() -> None:
    """Neither a setting, nor a key, nor a role of AWS; the others have all three."""
    pod = PODS["refunds"]
    (container,) = pod["containers"]
    sources = [each["configMapRef"]["name"] for each in container["envFrom"]]
    secrets = {
        source["secret"]["name"]: source["secret"]["items"]
        for volume in pod["volumes"]
        if volume["name"] == "secret"
        for source in volume["projected"]["sources"]
    }
    keys = secrets["hotwallet-keys"]
    account = MANIFESTS[f"ServiceAccount {pod['serviceAccountName']}"]

    assert sources == ["hotwallet-settings"]
    assert not {*SETTINGS["hotwallet-settings"]} & {*CREDENTIALS, "KMS_KEY_ID"}
    assert {*secrets} == {"hotwallet-keys", "hotwallet-screening"}
    assert {each["key"] for each in keys} == {"mac.key", "token.pem"}
    assert "annotations" not in account["metadata"]
    for role in ("worker", "admin", "sign"):
        signing = MANIFESTS[f"ServiceAccount hotwallet-{role}"]
        assert "role-arn" in str(signing["metadata"]["annotations"])


@pytest.fixture(scope="module")
def rendered() -> list[dict[str, Any]]:
    """What `kubectl apply -k` sends."""
    return list(yaml.safe_load_all(_kustomize(KUBERNETES)))


def _selects(policy: dict[str, Any], role: str) -> bool:
    selector = policy["spec"]["podSelector"]
    labels = {"app.kubernetes.io/name": "hotwallet", _COMPONENT: role}
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        (each["operator"], each["key"]) == ("In", _COMPONENT) and role in each["values"]
        for each in selector.get("matchExpressions", [])
    )


_COMPONENT = "app.kubernetes.io/component"
_AGENT = ("169.254.170.23", "fd00:ec2::23")  # Of EKS Pod Identity, port 80.
_MACHINE = ("169.254.169.254", "fd00:ec2::254")


def _may_reach(
    rendered: list[dict[str, Any]], role: str, address: str, port: int
) -> bool:
    """Whether a policy lets pods of *role* connect to *address*."""
    rules = [
        rule
        for each in rendered
        if each["kind"] == "NetworkPolicy" and _selects(each, role)
        for rule in each["spec"].get("egress", [])
    ]
    blocks = [
        to["ipBlock"]
        for rule in rules
        for to in rule["to"]
        if "ipBlock" in to and port in {each["port"] for each in rule["ports"]}
    ]
    return any(
        ip_address(address) in ip_network(block["cidr"])
        and not any(
            ip_address(address) in ip_network(each) for each in block.get("except", [])
        )
        for block in blocks
    )


@pytest.mark.parametrize("role", PODS)
def test_a_pod_reaches_what_its_process_asks(
    rendered: list[dict[str, Any]], role: str
) -> None:
    """Only what may use the key gets a role, and what faces the gateway no internet."""
    signs = role in {"worker", "admin", "sign"}
    policy = MANIFESTS["NetworkPolicy hotwallet-egress"]["spec"]["podSelector"]
    labels = TEMPLATES[role]["metadata"]["labels"]
    default = MANIFESTS["NetworkPolicy hotwallet-default"]["spec"]

    assert default == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert policy["matchLabels"].items() <= labels.items()
    assert labels["app.kubernetes.io/component"] == role

    assert _may_reach(rendered, role, "10.0.7.7", 5432)
    assert not _may_reach(rendered, role, "192.0.2.1", 5432)
    assert _may_reach(rendered, role, "192.0.2.1", 443) is (
        signs or role == "reconcile"
    )
    for address in _AGENT:
        assert _may_reach(rendered, role, address, 80) is signs
        assert not _may_reach(rendered, role, address, 443)
    for address, port in product(_MACHINE, (80, 443, 5432)):
        assert not _may_reach(rendered, role, address, port)


def test_a_forwarded_port_leads_to_the_console(rendered: list[dict[str, Any]]) -> None:
    """It comes from the pod's own loopback address, as no request to others may."""
    (proxies,) = (
        each["data"]
        for each in rendered
        if each["metadata"]["name"] == "hotwallet-proxies"
    )
    trusting = {
        role
        for role, networks in proxies.items()
        if is_proxy(
            ip_address("127.0.0.1"), [ip_network(each) for each in networks.split(",")]
        )
    }

    assert trusting == {"admin"}


PROXIES = MANIFESTS["ConfigMap hotwallet-proxies"]["data"]


def _write_files(folder: Path) -> None:
    create_mac_key(folder / "mac.key")
    create_key(folder / "audit.pem")
    provide_signing_key(folder / "private.pem", folder / "token.pem")
    networks = (ROOT / "docker" / "networks.example.toml").read_text(encoding="utf-8")
    (folder / "networks.toml").write_text(networks, encoding="utf-8")
    shutil.copy(ROOT / "docker" / "tenants.example.toml", folder / "tenants.toml")


@pytest.mark.parametrize("role", [each for each in PODS if each in _WRITTEN])
def test_the_settings_of_a_pod_pass_the_guard(tmp_path: Path, role: str) -> None:
    """As `hotwallet config check --process`; with files and URLs of an operator."""
    (container,) = PODS[role]["containers"]
    environ = {"DATABASE_URL": "postgresql://me@db.test/d?sslmode=verify-full"}
    for source in container["envFrom"]:
        environ |= SETTINGS[source["configMapRef"]["name"]]
    for variable in container["env"]:
        if "value" in variable:
            environ[variable["name"]] = variable["value"]
        elif variable["name"] == "TRUSTED_PROXIES":
            environ["TRUSTED_PROXIES"] = PROXIES[role]
    _write_files(tmp_path)
    for name, value in environ.items():
        if name.endswith("_FILE"):
            environ[name] = str(tmp_path / Path(value).name)

    check_configuration({**environ, "BIND": "0.0.0.0:8080"}, role)
    assert ("AUDIT_ORIGIN" in environ) is (role != "refunds")


def test_only_proxies_and_prometheus_reach_a_pod() -> None:
    """A worker is reached by no other pod."""
    allowed = {
        document["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        for name, document in MANIFESTS.items()
        if name.startswith("NetworkPolicy") and "ingress" in document["spec"]
    }

    assert allowed == {"refunds", "admin", "sign"}


def _analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.needs("systemd-analyze")
def test_the_units_are_valid_and_hardened(tmp_path: Path) -> None:
    """Also with the drop-in for devices; only the program is not installed here."""
    guide = (ROOT / "docs/how-to/hardware-hsm.md").read_text(encoding="utf-8")
    (settings,) = re.findall(r"^```ini\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)
    with_drop_in = []
    for unit in UNITS:
        (folder := tmp_path / f"{unit.name}.d").mkdir()
        (folder / "hsm.conf").write_text(settings, encoding="utf-8")
        with_drop_in.append(shutil.copy(unit, tmp_path))
    threshold = f"--threshold={_LARGEST_EXPOSURE}"

    for units in (UNITS, with_drop_in):
        complaints = _analyze("verify", "--man=no", *units).stderr.splitlines()
        assert all("is not executable" in each for each in complaints), complaints
    rated = _analyze("security", "--offline=yes", threshold, *UNITS)
    assert rated.returncode == 0, rated.stdout


def test_commands_of_operators_get_what_the_admin_process_gets() -> None:
    """The guide runs them in a unit of their own."""
    guide = (ROOT / "docs/how-to/systemd.md").read_text(encoding="utf-8")
    (command,) = re.findall(
        r"^systemd-run .*?hotwallet doctor'$", guide, re.MULTILINE | re.DOTALL
    )
    unit = next(each for each in UNITS if each.stem == "hotwallet-admin")
    loaded = [
        set(re.findall(r"LoadCredential=(\S+)", text))
        for text in (command, unit.read_text(encoding="utf-8"))
    ]

    assert loaded[0] == loaded[1] != set()
    assert "sh -c 'cd $$CREDENTIALS_DIRECTORY && exec " in command


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_runs_a_command_with_known_settings(unit: Path) -> None:
    """Each secret is a credential, and the one that accepts refunds has no key."""
    text = unit.read_text(encoding="utf-8")
    (command,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    loaded = re.findall(r"^LoadCredential=([^:]+):/etc/hotwallet/", text, re.MULTILINE)
    process = unit.stem.removeprefix("hotwallet-")
    written = _WRITTEN.get(process, {"MAC_KEY_FILE": "mac.key"})
    named = {value for name, value in written.items() if name.endswith("_FILE")}

    _require_command(["hotwallet", *command.split()[1:]])
    assert "WorkingDirectory=%d\n" in text
    assert {*loaded} == named | {"networks.toml"}
    assert f"EnvironmentFile=/etc/hotwallet/{process}.env\n" in text
    if process == "refunds":
        assert not written.keys() & {*CREDENTIALS}
    # A unit with a key does not try a refused PIN again.
    restarts = "Restart=always\n" in text and process != "refunds"
    assert (f"RestartPreventExitStatus={os.EX_NOPERM}\n" in text) == restarts


DROP_INS = sorted((ROOT / "deploy" / "systemd").glob("*.service.d/*.conf"))


@pytest.mark.parametrize(
    "path", DROP_INS, ids=lambda path: f"{path.parent.stem} {path.stem}"
)
def test_a_drop_in_gives_a_unit_one_more_file(path: Path) -> None:
    """It names a unit and a setting that exist, and loads the file that it names."""
    text = path.read_text(encoding="utf-8")
    (loaded,) = re.findall(
        r"^LoadCredential=(\S+):/etc/hotwallet/\1$", text, re.MULTILINE
    )
    ((variable, file),) = re.findall(
        r"^Environment=(\w+)=%d/(\S+)$", text, re.MULTILINE
    )

    assert path.parent.with_suffix("") in UNITS
    assert variable in _VARIABLES
    assert file == loaded


def test_the_guide_installs_each_drop_in(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "how-to" / "systemd.md").read_text(encoding="utf-8")
    loops = re.findall(r"^ *for unit in.*?^ *done$", guide, re.MULTILINE | re.DOTALL)
    script = "\n".join(loops).replace("/etc/systemd/system", str(tmp_path))
    subprocess.run(["bash", "-euc", script], cwd=ROOT, check=True, timeout=60)

    installed = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.conf")}
    assert installed == {
        path.relative_to(ROOT / "deploy" / "systemd") for path in DROP_INS
    }


_OPTIONAL = {
    "ALERT_WEBHOOK_URL": {"refunds", "worker", "admin", "sign", "reconcile"},
    "SCREENING_SECRET_FILE": {"refunds", "sign"},
    "SCREENING_URL": {"refunds", "sign"},
    "TREASURY_TOKEN_FILE": {"worker"},
    "TREASURY_URL": {"worker"},
    "WEBHOOK_PUBLIC_KEYS_FILE": {"refunds"},
    "WEBHOOK_SIGNING_KEY_FILE": {"worker"},
}
"""Settings that a pod has if its operator makes a Secret or ConfigMap, and the pods."""


def test_a_pod_starts_without_what_is_optional() -> None:
    """Also without the own rules and the service that screens addresses."""
    found: dict[str, set[str]] = {}
    for role, pod in PODS.items():
        for variable in pod["containers"][0]["env"]:
            for source in variable.get("valueFrom", {}).values():
                if source.get("optional"):
                    found.setdefault(variable["name"], set()).add(role)
        for volume in pod["volumes"]:
            for source in volume.get("projected", {}).get("sources", []):
                is_key = source["secret"]["name"] == "hotwallet-keys"
                assert is_key is not source["secret"].get("optional", False)
            if volume["name"] == "policy":
                assert volume["configMap"]["optional"]

    assert found == _OPTIONAL


def test_processes_that_decide_read_the_same_rules() -> None:
    """All that accept or sign mount the folder that ``settings.yaml`` suggests."""
    text = (KUBERNETES / "settings.yaml").read_text(encoding="utf-8")
    (folder,) = re.findall(r"# POLICY_DIR: (\S+)", text)
    suggested = re.findall(r"^  # ([A-Z_]+): ", text, re.MULTILINE)

    assert {*suggested} <= _VARIABLES
    for role in ("refunds", "worker", "admin", "sign"):
        mounts = PODS[role]["containers"][0]["volumeMounts"]
        assert {"name": "policy", "mountPath": folder, "readOnly": True} in mounts


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_hardened(path: Path) -> None:
    """
    No action can be replaced, no job has a permission by default, no shell gets a name.

    A tag or a branch in a shell command could contain commands.
    """
    text = path.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    workflow["on"] = workflow.pop(True)  # YAML 1.1 reads the key "on" as true.
    assert schema_errors("github-workflows", workflow) == []
    assert schema_errors("github-workflows", {**workflow, "job": {}}) != []
    jobs = workflow["jobs"].values()
    own = [job for job in jobs if "uses" not in job]
    steps = [step for job in own for step in job["steps"]]

    assert workflow["permissions"] == {}
    assert all("permissions" in job for job in jobs)
    assert all("timeout-minutes" in job for job in own)
    called = {job["uses"] for job in jobs if "uses" in job}
    assert called <= {"./.github/workflows/build.yml"}  # Of the same commit.
    assert not any("${{" in step.get("run", "") for step in steps)
    for step in steps:
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"])
    assert text.count("# v") == sum("uses" in step for step in steps)
    assert "secrets." not in text


def test_the_job_that_publishes_runs_no_code_of_dependencies() -> None:
    """
    The job that builds has no identity; those that have one only upload and sign.

    They are in the workflow that others call, and who calls it cannot sign.
    """
    build, release = (
        yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())
        for name in ("build", "release")
    )

    assert build[True] == {"workflow_call": {}}  # Nothing else starts it: no inputs.
    assert build["jobs"]["packages"]["permissions"] == {"contents": "read"}
    for name, job in build["jobs"].items():
        if "id-token" in job["permissions"]:
            commands = " ".join(step.get("run", "") for step in job["steps"])
            assert not re.search(r"\b(make|pip|npm|python)\b", commands), name
    for job in release["jobs"].values():
        assert "uses" in job or "id-token" not in job["permissions"]
