"""Every HTTP destination that has a fake, by a name for test ids."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tests.support.fake_amplitude import FakeAmplitude
from tests.support.fake_audit_stream import FakeAuditStream
from tests.support.fake_aws import FakeS3, FakeSns, FakeSqs
from tests.support.fake_bigquery import FakeBigQuery
from tests.support.fake_clickhouse import FakeClickHouse
from tests.support.fake_mixpanel import FakeMixpanel
from tests.support.fake_otlp import FakeOtlp
from tests.support.fake_posthog import FakePostHog
from tests.support.fake_rudderstack import FakeRudderStack
from tests.support.fake_segment import FakeSegment
from tests.support.fake_slack import FakeSlack
from tests.support.fake_vendor import FakeVendor
from tests.support.fake_webhook import FakeWebhook

FAKES: dict[str, Callable[[], FakeVendor]] = {
    "webhook": FakeWebhook,
    "posthog": FakePostHog,
    "posthog-v1": partial(FakePostHog, api="v1"),
    "mixpanel": FakeMixpanel,
    "segment": FakeSegment,
    "rudderstack": FakeRudderStack,
    "amplitude": FakeAmplitude,
    "clickhouse": FakeClickHouse,
    "amplitude-httpapi": partial(FakeAmplitude, api="httpapi"),
    "otlp": FakeOtlp,
    "slack": FakeSlack,
    "audit_stream": FakeAuditStream,
    "bigquery": FakeBigQuery,
    "bigquery-load": partial(FakeBigQuery, method="load"),
    "s3": FakeS3,
    "sqs": FakeSqs,
    "sns": FakeSns,
}

KINDS = frozenset(str(getattr(made, "func", made).kind) for made in FAKES.values())
"""The destinations that speak to them."""
