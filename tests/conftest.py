"""The fixtures every floor may use; they live by family in tests/support."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.support.fixtures", "tests.support.streams"]

# How long an example takes says how busy the machine is, and no law is about that.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")
