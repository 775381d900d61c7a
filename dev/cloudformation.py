"""
Writes ``docs/iam/wallet.json``: the key, its policy and the roles, for CloudFormation.

``python -m dev.cloudformation`` makes it from the policies in the same folder, which
are the only source of what each role may do.  A test fails if it is stale.
"""

import json
from pathlib import Path
from typing import Any


IAM = Path(__file__).resolve().parents[1] / "docs" / "iam"
TEMPLATE = IAM / "wallet.json"

KEY = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

# The placeholders of the policies that are whole values, and what replaces them.
_VALUES = {
    KEY: {"Fn::GetAtt": ["Key", "Arn"]},
    "vpc-0a1b2c3d4e5f67890": {"Ref": "VpcId"},
    "vpce-0a1b2c3d4e5f67890": {"Ref": "EndpointId"},
}
# Those that are parts of ARNs.
_PARTS = {
    "arn:aws:": "arn:${AWS::Partition}:",
    "eu-central-1": "${AWS::Region}",
    "111122223333": "${AWS::AccountId}",
}

_PARAMETERS = {
    "Environment": {
        "Type": "String",
        "Description": "The value of the tag hotwallet, for example production",
        "AllowedPattern": "[a-z][a-z0-9-]{0,62}",
    },
    "VpcId": {
        "Type": "String",
        "Description": "The VPC of the hosts; the key signs from nowhere else",
        "AllowedPattern": "vpc-[0-9a-f]{8,17}",
    },
    "EndpointId": {
        "Type": "String",
        "Description": "The interface endpoint of KMS in that VPC",
        "AllowedPattern": "vpce-[0-9a-f]{8,17}",
    },
    "RuntimeService": {
        "Type": "String",
        "Description": "Where the worker and the admin process run",
        "AllowedValues": [
            "ec2.amazonaws.com",
            "ecs-tasks.amazonaws.com",
            "pods.eks.amazonaws.com",
        ],
    },
    "AdministratorArn": {
        "Type": "String",
        "Description": "The role of the persons who create keys, and so may assume"
        " hotwallet-rotation",
        "AllowedPattern": "arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9_+=,.@/-]+",
    },
}


def template() -> dict[str, Any]:
    """Return the template, with the policies of ``docs/iam`` in it."""
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": "hotwallet: the key that signs, and the roles that use and"
        " create keys",
        "Parameters": _PARAMETERS,
        "Conditions": {
            "OnInstances": _equals("RuntimeService", "ec2.amazonaws.com"),
            "InPods": _equals("RuntimeService", "pods.eks.amazonaws.com"),
        },
        "Resources": _resources(),
        "Outputs": {
            "KeyArn": {
                "Description": "KMS_KEY_ID of the service",
                "Value": {"Fn::GetAtt": ["Key", "Arn"]},
            },
            "RuntimeRoleArn": {
                "Description": "The only role that may sign",
                "Value": {"Fn::GetAtt": ["RuntimeRole", "Arn"]},
            },
        },
    }


def policy(name: str) -> Any:
    """Return the policy *name* of ``docs/iam``, its placeholders replaced."""
    return _replace(json.loads((IAM / f"{name}.json").read_text(encoding="utf-8")))


def _resources() -> dict[str, Any]:
    return {
        "RuntimeRole": _role(
            "hotwallet-runtime",
            {"Service": {"Ref": "RuntimeService"}},
            _runtime_trust(),
        ),
        # Apart from the role: the key's policy needs the role, and this needs the key.
        "RuntimePolicy": {
            "Type": "AWS::IAM::Policy",
            "Properties": {
                "PolicyName": "sign",
                "Roles": [{"Ref": "RuntimeRole"}],
                "PolicyDocument": policy("runtime-role"),
            },
        },
        "RuntimeProfile": {
            "Type": "AWS::IAM::InstanceProfile",
            "Condition": "OnInstances",
            "Properties": {
                "InstanceProfileName": "hotwallet-runtime",
                "Roles": [{"Ref": "RuntimeRole"}],
            },
        },
        "RotationRole": _role(
            "hotwallet-rotation",
            {"AWS": {"Ref": "AdministratorArn"}},
            "sts:AssumeRole",
            Policies=[
                {
                    "PolicyName": "create-keys",
                    "PolicyDocument": policy("rotation-role"),
                }
            ],
        ),
        "Key": {
            "Type": "AWS::KMS::Key",
            # KMS refuses a policy that names a role which does not exist.
            "DependsOn": "RuntimeRole",
            # The key holds money: deleting the stack must not delete it.
            "DeletionPolicy": "Retain",
            "UpdateReplacePolicy": "Retain",
            "Properties": {
                "Description": "hotwallet",
                "KeySpec": "ECC_SECG_P256K1",
                "KeyUsage": "SIGN_VERIFY",
                "MultiRegion": False,
                "PendingWindowInDays": 30,
                "KeyPolicy": policy("key-policy"),
                "Tags": [{"Key": "hotwallet", "Value": {"Ref": "Environment"}}],
            },
        },
    }


def _role(name: str, principal: object, action: object, **properties: object) -> Any:
    return {
        "Type": "AWS::IAM::Role",
        "Properties": {
            "RoleName": name,
            "AssumeRolePolicyDocument": {
                "Version": "2012-10-17",
                "Statement": [
                    {"Effect": "Allow", "Principal": principal, "Action": action}
                ],
            },
            **properties,
        },
    }


def _runtime_trust() -> object:
    # EKS Pod Identity also tags the session.
    return {
        "Fn::If": ["InPods", ["sts:AssumeRole", "sts:TagSession"], "sts:AssumeRole"]
    }


def _equals(parameter: str, value: str) -> object:
    return {"Fn::Equals": [{"Ref": parameter}, value]}


def _replace(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _replace(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_replace(each) for each in value]
    if not isinstance(value, str):
        return value
    if value in _VALUES:
        return _VALUES[value]
    replaced = value
    for part, name in _PARTS.items():
        replaced = replaced.replace(part, name)
    return value if replaced == value else {"Fn::Sub": replaced}


def main() -> None:
    """Write the template."""
    TEMPLATE.write_text(json.dumps(template(), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
