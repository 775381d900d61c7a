"""What the fork server imports once, so that each process starts in milliseconds."""

import gc
import logging.config

import psycopg
from gunicorn import glogging  # type: ignore[import-untyped]
from gunicorn.app import wsgiapp  # type: ignore[import-untyped]
from gunicorn.workers import gthread  # type: ignore[import-untyped]

import api.auth.verification_keys
import api.bootstrap
import api.metrics.worker_meter
import api.server.config_check
import api.server.turns
import backends.aws_kms.backend
import backends.json_rpc
import backends.pkcs11
import backends.sql.migrate
import signer.keys.startup_key
import softhsm.provision
from api.extension import find_hooks, find_routes
from tests.crash import (
    approval_laboratory,
    audit_workers,
    gateway_process,
    host,
    json_rpc_client,
    signing_process,
)


PRELOADED = (
    *find_hooks("start_checks"),
    *find_hooks("worker_loops"),
    *find_routes("all"),
    api.auth.verification_keys,
    api.bootstrap,
    api.metrics.worker_meter,
    api.server.config_check,
    api.server.turns,
    approval_laboratory,
    audit_workers,
    backends.aws_kms,
    backends.json_rpc,
    backends.pkcs11,
    backends.sql.migrate,
    gateway_process,
    glogging,
    gthread,
    host,
    json_rpc_client,
    logging.config,
    psycopg,
    signer.keys.startup_key,
    signing_process,
    softhsm.provision,
    wsgiapp,
)

# The forks share what the garbage collector never touches again.
gc.collect()
gc.freeze()
