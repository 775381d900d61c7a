"""What the fork server imports once, so that each process starts in milliseconds."""

import gc

import psycopg
from gunicorn.app import wsgiapp  # type: ignore[import-untyped]

import api.bootstrap
import backends.aws_kms.backend
import backends.json_rpc
import backends.pkcs11
import backends.sql.migrate
import softhsm.provision
from tests.crash import (
    approval_laboratory,
    audit_workers,
    gateway_process,
    host,
    json_rpc_client,
    signing_process,
)


PRELOADED = (
    api.bootstrap,
    approval_laboratory,
    audit_workers,
    backends.aws_kms,
    backends.json_rpc,
    backends.pkcs11,
    backends.sql.migrate,
    gateway_process,
    host,
    json_rpc_client,
    psycopg,
    signing_process,
    softhsm.provision,
    wsgiapp,
)

# The forks share what the garbage collector never touches again.
gc.collect()
gc.freeze()
