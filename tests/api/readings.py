"""Measurements of workers, written in Prometheus's text format for readers."""

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from api.metrics.metric_names import OF_WORKERS
from api.metrics.readings import Readings, read


def measured(text: str) -> str:
    """Return the JSON of the gauges and counters in *text*."""
    specs = {spec.name: spec for spec in OF_WORKERS}
    readings = Readings()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            spec = specs[sample.name]
            labels = [sample.labels[label] for label in spec.labels]
            readings.set(spec, *labels, value=sample.value)
    return readings.to_json()


class _Collector(Collector):
    def __init__(self, text: str) -> None:
        self._readings = read(text)

    def collect(self) -> list[Metric]:
        found = self._readings.families(OF_WORKERS)
        return [metric for metric in found if metric.samples]


def exposed(text: str) -> str:
    """Return what the JSON *text* of a worker has, in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(text))
    return generate_latest(registry).decode()
