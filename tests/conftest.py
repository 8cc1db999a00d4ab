"""The fixtures every floor may use; they live by family in tests/support."""

from __future__ import annotations

pytest_plugins = ["tests.support.fixtures", "tests.support.streams"]
