# The public names; `__init__.py` reads this file.

from typing import NoReturn

from api.cli.__main__ import cli as cli
from api.extension import Extra as Extra
from backends.aws_kms.backend import KMSBackend as KMSBackend
from backends.aws_kms.client import build_client as _build_kms_client
from backends.aws_kms.plugin import PLUGIN as _AWS_KMS
from backends.google_cloud_kms.plugin import PLUGIN as _GOOGLE_CLOUD_KMS
from backends.pkcs11 import PKCS11Backend as PKCS11Backend
from backends.sql import SQLStore as SQLStore
from backends.testing import Device as Device
from backends.testing import KeyBackendContract as KeyBackendContract
from signer.account import HSMAccount as HSMAccount
from signer.audit.checkpoints import Verifier as _CheckpointVerifier
from signer.audit.checkpoints import read_notes as _read_checkpoints
from signer.audit.verify import verify as _verify_audit_export
from signer.config.networks import Network as Network
from signer.config.networks import load_networks as load_networks
from signer.config.policy_files import read_policy_files as read_policy_files
from signer.config.settings import Settings as Settings
from signer.config.tenants import load_tenants as load_tenants
from signer.crypto.der import encode_public_key as encode_public_key
from signer.crypto.der import encode_signature as encode_signature
from signer.crypto.der import parse_public_key as parse_public_key
from signer.crypto.der import parse_signature as parse_signature
from signer.crypto.secp256k1 import PublicKey as PublicKey
from signer.crypto.secp256k1 import Signature as Signature
from signer.crypto.secp256k1 import recoverable as recoverable
from signer.errors import AccessDeniedError as AccessDeniedError
from signer.errors import BackendError as BackendError
from signer.errors import BackendThrottledError as BackendThrottledError
from signer.errors import BackendUnavailableError as BackendUnavailableError
from signer.errors import ConfigurationError as ConfigurationError
from signer.errors import EncodingError as EncodingError
from signer.errors import HotWalletError as HotWalletError
from signer.errors import InvalidInputError as InvalidInputError
from signer.errors import KeyNotExportableError as KeyNotExportableError
from signer.errors import KeyNotFoundError as KeyNotFoundError
from signer.errors import KeyUnusableError as KeyUnusableError
from signer.errors import PolicyViolationError as PolicyViolationError
from signer.errors import RecoveryError as RecoveryError
from signer.errors import Refusal as Refusal
from signer.errors import SigningError as SigningError
from signer.policy.default_rules import account_policy as account_policy
from signer.policy.default_rules import service_files as service_files
from signer.policy.policy import Policy as Policy
from signer.policy.rules import PolicyFile as PolicyFile
from signer.ports.backend_plugin import BackendConfig as BackendConfig
from signer.ports.backend_plugin import BackendPlugin as BackendPlugin
from signer.ports.key_backend import DeviceSignature as DeviceSignature
from signer.ports.key_backend import KeyBackend as KeyBackend
from signer.ports.key_backend import KeyDirectory as KeyDirectory
from signer.ports.key_backend import KeyId as KeyId
from signer.row_macs import RowMACs as RowMACs
from softhsm.account import open_account as open_account
from softhsm.plugin import PLUGIN as _PKCS11

# A stub exports what keeps its name, and what it assigns.
AWS_KMS = _AWS_KMS
GOOGLE_CLOUD_KMS = _GOOGLE_CLOUD_KMS
PKCS11 = _PKCS11
CheckpointVerifier = _CheckpointVerifier
build_kms_client = _build_kms_client
read_checkpoints = _read_checkpoints
verify_audit_export = _verify_audit_export

def main() -> NoReturn: ...
