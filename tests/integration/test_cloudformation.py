"""The templates in ``docs/iam`` make the key and the roles that are described there."""

import json
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest

from backends.aws_kms.backend import KMSBackend
from dev.cloudformation import KEY, TEMPLATE, template
from signer.crypto.der import parse_public_key, parse_signature
from signer.crypto.secp256k1 import recoverable
from signer.ports.key_backend import KeyId
from tests.fixtures.kms import OpenKMS
from tests.support.iam import lint_key_policy, lint_rotation, lint_runtime


IAM = TEMPLATE.parent

_REGION = "eu-central-1"
_ACCOUNT = "123456789012"
_ADMINISTRATORS = f"arn:aws:iam::{_ACCOUNT}:role/administrators"


@pytest.fixture(scope="module")
def stack(ministack_endpoint: str) -> dict[str, str]:
    """The outputs of a stack, which the emulator made from the template."""
    return _create(
        ministack_endpoint,
        "wallet",
        TEMPLATE.read_text(encoding="utf-8"),
        Environment="test",
        VpcId="vpc-0a1b2c3d4e5f67890",
        EndpointId="vpce-0a1b2c3d4e5f67890",
        RuntimeService="pods.eks.amazonaws.com",
        AdministratorArn=_ADMINISTRATORS,
    )


@pytest.fixture(scope="module")
def alarms(stack: dict[str, str], ministack_endpoint: str) -> None:
    """A stack of the alarms, with the outputs of the other stack as parameters."""
    document = json.loads((IAM / "alarms.json").read_text(encoding="utf-8"))
    del document["Resources"]["Trail"]  # The emulator has no CloudTrail.
    logs = _client(ministack_endpoint, "logs")
    logs.create_log_group(logGroupName="/hotwallet/test")
    _create(
        ministack_endpoint,
        "alarms",
        json.dumps(document),
        Email="oncall@example.com",
        LogGroupName="/hotwallet/test",
        **stack,
    )


def _client(endpoint: str, service: str) -> Any:
    return boto3.client(service, region_name=_REGION, endpoint_url=endpoint)


def _create(endpoint: str, name: str, body: str, **parameters: str) -> dict[str, str]:
    client = _client(endpoint, "cloudformation")
    client.create_stack(
        StackName=name,
        TemplateBody=body,
        Capabilities=["CAPABILITY_NAMED_IAM"],
        Parameters=[
            {"ParameterKey": key, "ParameterValue": value}
            for key, value in parameters.items()
        ],
    )
    client.get_waiter("stack_create_complete").wait(
        StackName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 30}
    )
    (made,) = client.describe_stacks(StackName=name)["Stacks"]
    return {each["OutputKey"]: each["OutputValue"] for each in made.get("Outputs", [])}


def _shipped(name: str, key_arn: str) -> Any:
    """Return a policy of ``docs/iam``, with the values of the stack."""
    text = (IAM / f"{name}.json").read_text(encoding="utf-8")
    return json.loads(text.replace(KEY, key_arn).replace("111122223333", _ACCOUNT))


def test_the_template_is_up_to_date() -> None:
    """Run ``python -m dev.cloudformation`` after a policy has changed."""
    assert json.loads(TEMPLATE.read_text(encoding="utf-8")) == template()


def test_the_made_key_signs_for_the_service(
    stack: dict[str, str], ministack_endpoint: str, open_kms: OpenKMS
) -> None:
    """It is a secp256k1 key, and its signatures recover to its public key."""
    backend: KMSBackend = open_kms(ministack_endpoint)
    key_id, digest = KeyId(stack["KeyArn"]), bytes(range(32))

    public_key = parse_public_key(backend.public_key(key_id))
    r, s = parse_signature(backend.sign_digest(key_id, digest).der)

    assert recoverable(r, s, digest, public_key).recover(digest) == public_key


def test_the_made_policies_are_the_shipped_ones(
    stack: dict[str, str], ministack_endpoint: str
) -> None:
    """CloudFormation replaces nothing else, and the linters accept the result."""
    kms = _client(ministack_endpoint, "kms")
    iam = _client(ministack_endpoint, "iam")
    arn = stack["KeyArn"]

    key_policy = json.loads(kms.get_key_policy(KeyId=arn)["Policy"])
    runtime = iam.get_role_policy(RoleName="hotwallet-runtime", PolicyName="sign")
    rotation = iam.get_role_policy(
        RoleName="hotwallet-rotation", PolicyName="create-keys"
    )

    made = key_policy, runtime["PolicyDocument"], rotation["PolicyDocument"]
    names = "key-policy", "runtime-role", "rotation-role"
    assert [*made] == [_shipped(name, arn) for name in names]
    assert lint_key_policy(made[0]) == []
    assert lint_runtime(made[1]) == []
    assert lint_rotation(made[2]) == []


def test_only_the_named_principals_may_assume_the_roles(
    stack: dict[str, str], ministack_endpoint: str
) -> None:
    iam = _client(ministack_endpoint, "iam")
    trusted = {
        name: iam.get_role(RoleName=name)["Role"]["AssumeRolePolicyDocument"]
        for name in ("hotwallet-runtime", "hotwallet-rotation")
    }

    (pods,) = trusted["hotwallet-runtime"]["Statement"]
    (persons,) = trusted["hotwallet-rotation"]["Statement"]
    assert pods["Principal"] == {"Service": "pods.eks.amazonaws.com"}
    assert pods["Action"] == ["sts:AssumeRole", "sts:TagSession"]
    assert persons["Principal"] == {"AWS": _ADMINISTRATORS}
    assert persons["Action"] == "sts:AssumeRole"


def test_the_alarms_watch_the_made_key(
    stack: dict[str, str], alarms: None, ministack_endpoint: str
) -> None:
    """The first rule names the key, and the only role that may sign with it."""
    rules = _client(ministack_endpoint, "events").list_rules()["Rules"]
    patterns = [rule["EventPattern"] for rule in rules]
    watched = _client(ministack_endpoint, "cloudwatch").describe_alarms()

    (pattern,) = (each for each in patterns if "CreateGrant" in each)
    assert stack["KeyArn"] in pattern
    assert stack["RuntimeRoleArn"] in pattern
    assert len(patterns) == 5
    assert len(watched["MetricAlarms"]) == 5
