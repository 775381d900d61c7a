"""
CloudTrail ``Sign`` events, in the form of the AWS example.

The form and the account are those of the AWS KMS developer guide, "Sign"
(doc_source/ct-sign.md); the parameters are those of our own calls.
"""

import gzip
import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any


ARN = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
OTHER_ARN = (
    "arn:aws:kms:us-west-2:111122223333:key/0987dcba-09fe-87dc-65ba-ab0987654321"
)


def sign_event(
    request_id: str, at: datetime, *, arn: str = ARN, **changes: Any
) -> dict[str, Any]:
    return {
        "eventVersion": "1.08",
        "userIdentity": {
            "type": "AssumedRole",
            "arn": "arn:aws:sts::111122223333:assumed-role/hotwallet-runtime/x",
            "accountId": "111122223333",
        },
        "eventTime": f"{at:%Y-%m-%dT%H:%M:%SZ}",
        "eventSource": "kms.amazonaws.com",
        "eventName": "Sign",
        "awsRegion": "us-west-2",
        "sourceIPAddress": "192.0.2.0",
        "userAgent": "Boto3/1.44",
        "requestParameters": {
            "messageType": "DIGEST",
            "keyId": arn,
            "signingAlgorithm": "ECDSA_SHA_256",
        },
        "responseElements": None,
        "requestID": request_id,
        "eventID": f"event-{request_id}",
        "readOnly": True,
        "resources": [
            {"accountId": "111122223333", "type": "AWS::KMS::Key", "ARN": arn}
        ],
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "recipientAccountId": "111122223333",
        "eventCategory": "Management",
        **changes,
    }


def other_event(at: datetime, name: str = "GetPublicKey") -> dict[str, Any]:
    """Return an event of another call."""
    return sign_event(f"{name}-{at.isoformat()}", at, eventName=name)


def trail_file(path: Path, events: Iterable[Any]) -> Path:
    """Write a log file, compressed if its name ends with ``.gz``."""
    content = json.dumps({"Records": list(events)}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path
