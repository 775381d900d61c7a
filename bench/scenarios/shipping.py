"""
What shipping the audit log costs the worker, per refund, in CPU time.

Three services run at once: without a place, with a folder, and with a bucket of an
emulator.  Each signs checkpoints, and pays the same refunds in turns.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import boto3  # type: ignore[import-untyped]
from moto.server import ThreadedMotoServer

from bench.cpu_time import cpu_seconds
from bench.harness import Figure, Goal, Prepared, Scenario, Values
from bench.servers import running_service
from bench.service import Service
from signer.audit.checkpoints import CheckpointKey
from signer.private_files import write_whole


_BATCH, _BATCHES = 100, 6
_MOST = 1.05
_BUCKET = "bench-shipped"


_NONE = "nothing shipped"


@contextlib.contextmanager
def _open(folder: Path, is_quick: bool) -> Iterator[Prepared]:
    key, place = folder / "checkpoint.pem", folder / "place"
    write_whole(key, CheckpointKey.generate().private_pem(), os.link)
    place.mkdir()
    with contextlib.ExitStack() as stack:
        bucket = stack.enter_context(_bucket())
        places: Mapping[str, Mapping[str, str]] = {
            _NONE: {},
            "to a folder": {"AUDIT_SHIP_TO": place.as_uri()},
            "to a bucket": {"AUDIT_SHIP_TO": f"s3://{_BUCKET}/log", **bucket},
        }
        works = []
        for number, (name, settings) in enumerate(places.items()):
            service = stack.enter_context(
                running_service(
                    folder / f"stack-{number}",
                    settings={"AUDIT_SIGNING_KEY_FILE": str(key), **settings},
                )
            )
            count = 1 if is_quick else _BATCHES
            works.append(partial(_pay, service, name, count))
        goals = (Goal(_NONE, at_most=_MOST),)
        figures = [
            Figure(name, "ms", goals if settings else ())
            for name, settings in places.items()
        ]
        yield Prepared(figures, works)


def _pay(service: Service, name: str, batches: int, seconds: float) -> Values:
    """Pay *batches*, and wait until they are final and the worker has nothing to do."""
    worker = service.stack.processes["worker"].pid
    service.await_idle("worker")
    before = cpu_seconds(worker)
    for _ in range(batches):
        service.post_batch(_BATCH)
    service.settle()
    service.await_idle("worker")
    return {name: 1000 * (cpu_seconds(worker) - before) / (batches * _BATCH)}


@contextlib.contextmanager
def _bucket() -> Iterator[Mapping[str, str]]:
    """Run an object store with a bucket here; yield the variables that reach it."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    variables = {
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_ENDPOINT_URL_S3": "http://{}:{}".format(*server.get_host_and_port()),
        "AWS_REGION": "us-east-1",
    }
    os.environ.update(variables)
    client = boto3.client("s3", endpoint_url=variables["AWS_ENDPOINT_URL_S3"])
    client.create_bucket(Bucket=_BUCKET, ObjectLockEnabledForBucket=True)
    try:
        yield variables
    finally:
        server.stop()


SCENARIO = Scenario(
    "shipping",
    "Shipping the audit log: CPU time of the worker per refund, SQLite",
    _open,
    rounds=7,
    seconds=1.0,
    quick_seconds=0.1,
)
