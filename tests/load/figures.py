"""What load commands share: percentiles and one line of JSON for each figure."""

import json
import sys
from collections.abc import Sequence


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the values is; 0 when there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def milliseconds(values_s: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and worst."""
    worst_s = max(values_s, default=0.0)
    named = {"p50": percentile(values_s, 0.5), "p99": percentile(values_s, 0.99), "max": worst_s}
    return {name: round(value_s * 1000, 1) for name, value_s in named.items()}


def show(**figures: object) -> None:
    """Say it."""
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()
