"""Counters and histograms that cost a dictionary lookup, and how they are read.

The hot path writes plain Python numbers; an `Instrument` describes them (OpenTelemetry
name, unit, labels) and reads them when somebody scrapes.  Nothing here locks: the event
loop writes, a reader sees each number either before or after an increment.

It knows neither Prometheus nor OTLP: see `metrics` and `metrics_otlp`.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeAlias

# Sets of label values per instrument: some 100 methods with a few error codes each. What
# comes later is counted under `_OTHER`, so no client can grow a scrape without bound.
MAX_LABEL_SETS = 512
OTHER = "_OTHER"

Labels: TypeAlias = tuple[str, ...]


class Distribution:
    """One histogram: how many values fell below each bound, and their sum.

    Args:
        bounds: Upper bounds, inclusive, rising; one more bucket takes the rest.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class CallDurations:
    """Histograms of seconds by method and error type; both `_OTHER` when they are too many."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._series: dict[tuple[str, str], Distribution] = {}

    def observe(self, method: str, error_type: str, duration_s: float) -> None:
        """Count one call; `error_type` is empty when it succeeded."""
        series = self._series.get((method, error_type))
        if series is None:
            series = self._admitted(method, error_type)
        series.counts[bisect_left(self._bounds, duration_s)] += 1
        series.total += duration_s

    def read(self) -> list[tuple[Labels, Distribution]]:
        """All series so far."""
        return list(self._series.items())

    def _admitted(self, method: str, error_type: str) -> Distribution:
        labels = (method, error_type)
        if len(self._series) >= MAX_LABEL_SETS:
            labels = (OTHER, OTHER)
        return self._series.setdefault(labels, Distribution(self._bounds))


class Distributions:
    """Histograms of equal bounds by label values; all `_OTHER` when they are too many."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._series: dict[Labels, Distribution] = {}

    def observe(self, value: float, *labels: str) -> None:
        """Count one value; give the label values in the instrument's order."""
        series = self._series.get(labels)
        if series is None:
            if len(self._series) >= MAX_LABEL_SETS:
                labels = (OTHER,) * len(labels)
            series = self._series.setdefault(labels, Distribution(self._bounds))
        series.observe(value)

    def read(self) -> list[tuple[Labels, Distribution]]:
        """All series so far."""
        return list(self._series.items())


class Tally:
    """A counter by label values; all `_OTHER` when they are too many."""

    def __init__(self) -> None:
        self._counts: dict[Labels, int] = {}

    def add(self, *labels: str, by: int = 1) -> None:
        """Count `by` more; give the label values in the instrument's order."""
        counts = self._counts
        if labels not in counts and len(counts) >= MAX_LABEL_SETS:
            labels = (OTHER,) * len(labels)
        counts[labels] = counts.get(labels, 0) + by

    def read(self) -> list[tuple[Labels, int]]:
        """All counts so far."""
        return list(self._counts.items())


class Kind(Enum):
    """What a reader may do with the numbers."""

    COUNTER = auto()
    GAUGE = auto()
    HISTOGRAM = auto()


Readings: TypeAlias = Iterable[tuple[Labels, float | Distribution]]


@dataclass(frozen=True, slots=True)
class Instrument:
    """A name for numbers that somebody else keeps.

    Attributes:
        name: OpenTelemetry's form, dotted.
        kind: Counter, gauge or histogram.
        text: One line for the reader of a scrape.
        read: The current values by label values; `Distribution`s for a histogram.
        labels: Names of the labels, dotted.
        unit: UCUM: `s`, `By`, or empty for plain counts.
    """

    name: str
    kind: Kind
    text: str
    read: Callable[[], Readings]
    labels: Labels = ()
    unit: str = ""
