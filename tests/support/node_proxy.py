"""Nodes for the reads of JSON-RPC's clients, without a network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class ScriptedProxy:
    """Answers what a test sets, and remembers what was asked."""

    answers: Mapping[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, list[Any]]] = field(default_factory=list)

    def forward(self, method: str, params: Sequence[Any]) -> Any:
        """Return or raise the answer to *method*."""
        self.asked.append((method, list(params)))
        answer = self.answers[method]
        if isinstance(answer, Exception):
            raise answer
        return answer
