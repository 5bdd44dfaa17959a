"""Settings that every test shares."""

from hypothesis import HealthCheck, settings

# Two shared cores and eight suites make single examples slow now and then: a deadline
# would fail them for the machine's sake. What must be fast is measured in tests/load.
settings.register_profile(
    "shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("shared-machine")
