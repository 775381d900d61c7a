"""
Values of metrics as data: measured in memory, stored as JSON, exposed to Prometheus.

Labels are bounded: only networks, tenants and rules of the configuration have their
names.  JSON that another process wrote is not trusted.  Only metrics of the catalogue
with their labels are read, and a bounded number, so that a changed row cannot flood a
monitoring.
"""

import json
import math
import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate
from threading import Lock
from typing import TYPE_CHECKING

from api.metrics.metric_names import OF_WORKERS, Spec
from signer.errors import InvalidInputError
from signer.model.refund import OPERATOR
from signer.policy.rules import RULES
from signer.strict_json import decode


if TYPE_CHECKING:
    from prometheus_client.core import Metric


OTHER = "other"
"""Stands for every name that is not configured."""

_FIXED_RULES = frozenset(RULES)

_MOST_CODES = 100
_CODES = frozenset({"backend", "blocker", "code", "outcome"})


class Names:
    """What may be labels: networks, tenants and rules, and the codes seen so far."""

    def __init__(
        self,
        networks: Collection[str],
        tenants: Collection[str],
        rules: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """
        Know *networks*, *tenants*, and *rules* besides those of this project.

        *rules* returns the names that are in force now.
        """
        self._rules = rules
        self._known: Mapping[str, Collection[str]] = {
            "network": frozenset(networks),
            "tenant": frozenset({*tenants, OPERATOR}),
        }
        self._codes = {""}

    def bound(self, label: str, value: str) -> str:
        """
        Return *value* of *label*, or ``OTHER`` if it could be anything.

        That is a name which is not configured, or a code after a hundred others.
        """
        known = self._known.get(label)
        if label == "rule":
            known = {*_FIXED_RULES, *self._rules()}
        if known is not None:
            return value if value in known else OTHER
        if label in _CODES and value not in self._codes:
            if len(self._codes) > _MOST_CODES:
                return OTHER
            self._codes.add(value)
        return value


_DEPTH = 5
_MOST_NUMBERS = 4000  # Of one worker.
_LABEL = re.compile(r"[A-Za-z0-9 ._+-]{0,64}")

Labels = tuple[str, ...]


class Readings:
    """
    Values of metrics, by their labels.  Threads may share them.

    The value of a histogram is its sum, and the count of each bucket.
    """

    def __init__(self, names: Names | None = None) -> None:
        """Bound the labels with *names*, if given."""
        self._names = names
        self._lock = Lock()
        self._values: dict[Spec, dict[Labels, list[float]]] = {}

    def add(self, spec: Spec, *labels: str, by: float = 1) -> None:
        with self._lock:
            self._value(spec, labels)[0] += by

    def set(self, spec: Spec, *labels: str, value: float) -> None:
        with self._lock:
            self._value(spec, labels)[0] = float(value)

    def observe(self, spec: Spec, *labels: str, value: float) -> None:
        """Count *value* in a histogram."""
        with self._lock:
            found = self._value(spec, labels)
            found[0] += value
            found[1 + bisect_left(spec.buckets, value)] += 1

    def put(self, spec: Spec, labels: Labels, numbers: Sequence[float]) -> None:
        """Add *numbers*, the whole value of a metric."""
        with self._lock:
            found = self._value(spec, labels)
            found[:] = [old + new for old, new in zip(found, numbers, strict=True)]

    def clear(self, spec: Spec) -> None:
        with self._lock:
            self._values.pop(spec, None)

    def copy(self) -> "Readings":
        found = Readings(self._names)
        with self._lock:
            for spec, values in self._values.items():
                found._values[spec] = {key: [*each] for key, each in values.items()}
        return found

    def of(self, spec: Spec) -> Mapping[Labels, float]:
        with self._lock:
            values = self._values.get(spec, {})
            return {labels: numbers[0] for labels, numbers in values.items()}

    def __iter__(self) -> Iterator[tuple[Spec, Mapping[str, str], float]]:
        """Yield each value that is not a histogram's, with its labels by name."""
        for spec in [*self._values]:
            if not spec.buckets:
                for labels, value in self.of(spec).items():
                    yield spec, dict(zip(spec.labels, labels, strict=True)), value

    def to_json(self, without: Collection[Spec] = ()) -> str:
        """Return everything but *without*, for ``read``."""
        with self._lock:
            found = {
                spec.name: list(values.items())
                for spec, values in self._values.items()
                if spec not in without
            }
        return json.dumps(found, separators=(",", ":"))

    def families(self, specs: Iterable[Spec]) -> Iterator["Metric"]:
        """Yield the metrics *specs* for Prometheus, also those without a value."""
        for spec in specs:
            metric = family(spec)
            self.fill(metric, spec)
            yield metric

    def fill(self, metric: "Metric", spec: Spec, **more: str) -> None:
        """Add the samples of *spec* to *metric*, with *more* labels."""
        with self._lock:
            values = [*self._values.get(spec, {}).items()]
        for given, numbers in values:
            labels = {**dict(zip(spec.labels, given, strict=True)), **more}
            if not spec.buckets:
                metric.add_sample(spec.name, labels, numbers[0])
                continue
            bounds = bucket_names(spec)
            counts = [*accumulate(numbers[1:])]
            for bound, count in zip(bounds, counts, strict=True):
                metric.add_sample(f"{spec.name}_bucket", {**labels, "le": bound}, count)
            metric.add_sample(f"{spec.name}_count", labels, counts[-1])
            metric.add_sample(f"{spec.name}_sum", labels, numbers[0])

    def _value(self, spec: Spec, given: Sequence[str]) -> list[float]:
        pairs = zip(spec.labels, map(str, given), strict=True)
        if self._names is None:
            labels = tuple(value for _, value in pairs)
        else:
            labels = tuple(self._names.bound(name, value) for name, value in pairs)
        values = self._values.setdefault(spec, {})
        return values.setdefault(labels, [0.0] * _size(spec))


@cache
def bucket_names(spec: Spec) -> Sequence[str]:
    """Return the bounds of the buckets of *spec*, as Prometheus writes them."""
    # Commands measure without it; it is slow to import.
    from prometheus_client.utils import floatToGoString  # noqa: PLC0415

    return [floatToGoString(each) for each in (*spec.buckets, math.inf)]  # type: ignore[no-untyped-call]


def family(spec: Spec, *more_labels: str) -> "Metric":
    """Return the empty family of *spec*, with *more_labels* after its own."""
    from prometheus_client import core  # noqa: PLC0415  As above.

    families = {
        "counter": core.CounterMetricFamily,
        "gauge": core.GaugeMetricFamily,
        "histogram": core.HistogramMetricFamily,
    }
    labels = [*spec.labels, *more_labels]
    metric: Metric = families[spec.kind](spec.family_name, spec.meaning, labels=labels)
    return metric


def read(text: str) -> Readings:
    """Return the measurements of a worker in *text*; none if it is malformed."""
    found = Readings()
    if not text:
        return found
    try:
        document = decode(text.encode(errors="replace"), _DEPTH)
    except InvalidInputError:
        return found
    if not isinstance(document, dict):
        return found
    total = 0
    for spec in OF_WORKERS:
        values = document.get(spec.name, ())
        for each in values if isinstance(values, list) else ():
            total += _size(spec)
            if total > _MOST_NUMBERS:
                return Readings()
            if _is_value(spec, each):
                found.put(spec, tuple(each[0]), each[1])
    return found


def _is_value(spec: Spec, each: object) -> bool:
    """Return whether *each* is a list of labels and one of finite numbers."""
    match each:
        case [[*labels], [*numbers]]:
            return (
                len(labels) == len(spec.labels)
                and len(numbers) == _size(spec)
                and all(isinstance(x, str) and _LABEL.fullmatch(x) for x in labels)
                and all(isinstance(x, float) for x in numbers)
            )
    return False


def _size(spec: Spec) -> int:
    return len(spec.buckets) + 2 if spec.buckets else 1
