"""Every HTTP destination that has a fake, by a name for test ids."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tests.support.fake_amplitude import FakeAmplitude
from tests.support.fake_clickhouse import FakeClickHouse
from tests.support.fake_mixpanel import FakeMixpanel
from tests.support.fake_posthog import FakePostHog
from tests.support.fake_rudderstack import FakeRudderStack
from tests.support.fake_segment import FakeSegment
from tests.support.fake_vendor import FakeVendor
from tests.support.fake_webhook import FakeWebhook

FAKES: dict[str, Callable[[], FakeVendor]] = {
    "webhook": FakeWebhook,
    "posthog": FakePostHog,
    "mixpanel": FakeMixpanel,
    "segment": FakeSegment,
    "rudderstack": FakeRudderStack,
    "amplitude": FakeAmplitude,
    "clickhouse": FakeClickHouse,
    "amplitude-httpapi": partial(FakeAmplitude, api="httpapi"),
}
