"""AWS KMS through boto3: ``KMSBackend`` signs, ``KMSAdministrator`` creates keys."""

from backends.aws_kms.backend import KMSAdministrator, KMSBackend
from backends.aws_kms.client import build_client


__all__ = ["KMSAdministrator", "KMSBackend", "build_client"]
