"""What a hub counts, and the text that Prometheus reads.

Written out by hand: the format is a name, labels and a number a line, and the usual library
would bring a registry that is one for the whole process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from klal.desk import Delivery

ROUND_BOUNDS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(slots=True)
class SpaceMetrics:
    """Counts of one space; only ever written by the thread of its file."""

    frames_received: int = 0
    frames_sent: int = 0
    bytes_sent: int = 0
    file_errors: int = 0
    round_seconds: float = 0.0
    rounds: list[int] = field(default_factory=lambda: [0] * (len(ROUND_BOUNDS_S) + 1))

    def note(self, deliveries: Iterable[Delivery], seconds: float) -> None:
        """Count one round of work."""
        for delivery in deliveries:
            self.frames_received += delivery.heard_count
            self.frames_sent += len(delivery.frames)
            self.bytes_sent += sum(map(len, delivery.frames))
        self.round_seconds += seconds
        self.rounds[next((i for i, bound in enumerate(ROUND_BOUNDS_S) if seconds <= bound), -1)] += 1


@dataclass(slots=True)
class HubMetrics:
    """Counts of the whole hub; only ever written on the event loop."""

    bytes_received: int = 0
    admitted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    sessions: int = 0
    things_refused: int = 0


@dataclass(frozen=True, slots=True)
class Metric:
    """One family of numbers, by label values."""

    name: str
    kind: str
    text: str
    values: Mapping[tuple[tuple[str, str], ...], float]

    def lines(self) -> Iterator[str]:
        """Yield the family in Prometheus' text format."""
        yield f"# HELP {self.name} {self.text}"
        yield f"# TYPE {self.name} {self.kind}"
        for labels, value in self.values.items():
            yield f"{self.name}{_spelled(labels)} {value:.10g}"


def text_of(hub: HubMetrics, connections: Mapping[str, int], spaces: Mapping[str, SpaceMetrics]) -> str:
    """Return everything counted, by space id where it is of a space."""

    def by_space(pick: str) -> dict[tuple[tuple[str, str], ...], float]:
        return {(("space", name),): float(getattr(each, pick)) for name, each in spaces.items()}

    def by_label(label: str, counts: Mapping[str, int]) -> dict[tuple[tuple[str, str], ...], float]:
        return {((label, name),): float(count) for name, count in sorted(counts.items())}

    families = [
        Metric("klal_connections", "gauge", "Connections open now.", by_label("space", connections)),
        Metric("klal_admitted_total", "counter", "Connections admitted, by how.", by_label("by", hub.admitted)),
        Metric("klal_not_admitted_total", "counter", "Connections turned away, by why.", by_label("why", hub.refused)),
        Metric("klal_ended_total", "counter", "Connections ended, by why.", by_label("why", hub.ended)),
        Metric("klal_sessions_total", "counter", "Sessions that came to their end.", {(): float(hub.sessions)}),
        Metric("klal_refused_total", "counter", "Things that broke a rule.", {(): float(hub.things_refused)}),
        Metric("klal_received_bytes_total", "counter", "Bytes of frames received.", {(): float(hub.bytes_received)}),
        Metric("klal_sent_bytes_total", "counter", "Bytes of frames sent.", by_space("bytes_sent")),
        Metric("klal_received_frames_total", "counter", "Frames received.", by_space("frames_received")),
        Metric("klal_sent_frames_total", "counter", "Frames sent.", by_space("frames_sent")),
        Metric("klal_file_errors_total", "counter", "Times the file refused.", by_space("file_errors")),
    ]
    lines = [line for family in families for line in family.lines()]
    return "\n".join([*lines, *_rounds(spaces)]) + "\n"


def _rounds(spaces: Mapping[str, SpaceMetrics]) -> Iterator[str]:
    name = "klal_round_seconds"
    yield f"# HELP {name} Time from what came to its being durable and answered."
    yield f"# TYPE {name} histogram"
    for space, each in spaces.items():
        total = 0
        for bound, count in zip((*map(str, ROUND_BOUNDS_S), "+Inf"), each.rounds, strict=True):
            total += count
            yield f"{name}_bucket{_spelled((('space', space), ('le', bound)))} {total}"
        yield f"{name}_sum{_spelled((('space', space),))} {each.round_seconds:.10g}"
        yield f"{name}_count{_spelled((('space', space),))} {total}"


def _spelled(labels: Iterable[tuple[str, str]]) -> str:
    spelled = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{spelled}}}" if spelled else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
