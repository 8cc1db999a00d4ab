"""What S3, SQS and SNS have in common: signing, times, and whose fault an error is."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
from botocore.awsrequest import AWSRequest

from tests.support.fake_aws import ACCESS_KEY, FakeAws, FakeS3, FakeSns, FakeSqs
from tests.support.http_server import Reply
from wal_tracker.destinations import registry
from wal_tracker.destinations.base import BatchRefused, Retry
from wal_tracker.destinations.http import Exchange, observed
from wal_tracker.errors import ConfigError, DestinationRefusedUs, DestinationUnavailable, PluginError
from wal_tracker.secret import Secret
from wal_tracker.testing import make_event
from wal_tracker_destinations.aws import AwsClient, AwsOptions, whose_fault, whose_fault_of_one


@pytest.fixture(params=[FakeS3, FakeSqs, FakeSns], ids=["s3", "sqs", "sns"])
def service(request: pytest.FixtureRequest) -> Iterator[FakeAws]:
    """Each of the services."""
    with request.param() as made:
        yield made


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """No credentials, and no profile, but those a test gives."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


def build(service: FakeAws, *without: str, **options: Any) -> Any:
    given = {key: value for key, value in {**service.options, **options}.items() if key not in without}
    destination = registry.build(service.kind, service.kind, given, f"destinations.{service.kind}")
    return destination


def opened(service: FakeAws, *without: str, **options: Any) -> Any:
    destination = build(service, *without, **options)
    destination.open(None)
    return destination


def test_a_request_is_signed_as_the_vector_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signature Version 4 of a given request at a given moment, worked out apart from botocore."""
    options = AwsOptions(access_key=Secret(ACCESS_KEY), secret_key=Secret("SECRET"))
    aws = AwsClient("queue", "sqs", options, region="us-east-1", endpoint="http://127.0.0.1:9324")
    aws.open()
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda **_: moment.replace(tzinfo=None))
    request = AWSRequest(
        method="POST",
        url="http://127.0.0.1:9324/",
        headers={"content-type": "application/x-amz-json-1.0", "x-amz-target": "AmazonSQS.SendMessageBatch"},
        data=b'{"QueueUrl":"http://127.0.0.1:9324/000000000000/q","Entries":[{"Id":"0","MessageBody":"{}"}]}',
    )

    aws._client._request_signer.sign("SendMessageBatch", request)

    assert request.headers["Authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260102/us-east-1/sqs/aws4_request, "
        "SignedHeaders=content-type;host;x-amz-date;x-amz-target, "
        "Signature=46c2df78b650ceaf966e4c43cb8fd8804424c3ecab337319b95efeee0689ee0c"
    )


def test_it_asks_once_and_leaves_trying_again_to_the_delivery(service: FakeAws) -> None:
    """botocore's own retries would be in nobody's log."""
    destination = opened(service)
    for asked, status in enumerate((500, 503, 429), 1):
        service.script.append(Reply(status))

        with pytest.raises(DestinationUnavailable, match=str(status)):
            destination.deliver([make_event(1)])

        assert len(service.requests) == asked


def test_it_takes_no_proxy_from_the_environment(service: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    """As no destination does."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1/")
    monkeypatch.setenv("no_proxy", "")

    assert not opened(service).deliver([make_event(1)]).outcomes


def test_it_takes_credentials_from_the_usual_chain(service: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the environment; a profile, a container's or an instance's role come the same way."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", service.key)

    opened(service, "accessKey", "secretKey").deliver([make_event(1)])

    assert service.ids == [make_event(1).id]


def test_a_session_token_goes_along(service: FakeAws) -> None:
    """Temporary credentials are three."""
    opened(service, session_token="t0ken-of-the-session").deliver([make_event(1)])

    assert service.requests[0].headers["x-amz-security-token"] == "t0ken-of-the-session"


def test_without_credentials_it_does_not_start(service: FakeAws) -> None:
    """Told before the first event, with the remedy."""
    with pytest.raises(DestinationRefusedUs, match="no AWS credentials: set accessKey and secretKey"):
        build(service, "accessKey", "secretKey").open(None)


def test_a_profile_that_is_not_there_stops_it(service: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no moment's trouble."""
    monkeypatch.setenv("AWS_PROFILE", "nobody")

    with pytest.raises(DestinationRefusedUs, match="ProfileNotFound"):
        build(service, "accessKey", "secretKey").open(None)


def test_a_service_that_hangs_is_left_after_the_time_it_has(service: FakeAws) -> None:
    """The same batch comes again; whether the first was taken is not known."""
    service.script.append(Reply(fault="hang"))
    begun = time.monotonic()

    with pytest.raises(DestinationUnavailable, match=r"did not answer within 0\.3 s"):
        opened(service, request_timeout_s=0.3).deliver([make_event(1)])

    assert time.monotonic() - begun < 5


def test_a_service_that_is_not_there_is_waited_for(service: FakeAws) -> None:
    """Nothing listens."""
    destination = opened(service)
    service.close()

    with pytest.raises(DestinationUnavailable, match="cannot be connected to"):
        destination.deliver([make_event(1)])


@pytest.mark.parametrize("service", [FakeSqs, FakeSns], ids=["sqs", "sns"], indirect=True)
def test_half_an_answer_is_no_answer(service: FakeAws) -> None:
    """Which messages were taken is not known, so all of them come again."""
    service.script.append(Reply(200, b'{"Successful": [{"Id": "0", "Mess'))

    try:
        outcomes = opened(service).deliver([make_event(1), make_event(2)]).outcomes
    except DestinationUnavailable as error:
        assert "answered what cannot be read" in str(error)
    else:
        assert all(isinstance(outcome, Retry) for outcome in outcomes.values()) and len(outcomes) == 2


def test_a_page_that_is_not_the_services_stops_it(service: FakeAws) -> None:
    """A gateway's own page: nothing of it says that an event is to blame."""
    destination = opened(service)
    for status in (400, 403, 404, 407):
        service.script.append(Reply(status, b"<html>Forbidden</html>", {"Content-Type": "text/html"}))

        with pytest.raises(DestinationRefusedUs, match=str(status)):
            destination.deliver([make_event(1)])


ERRORS: list[tuple[int, str, type[Exception]]] = [
    (503, "SlowDown", DestinationUnavailable),
    (500, "InternalError", DestinationUnavailable),
    (400, "RequestTimeout", DestinationUnavailable),
    (403, "RequestTimeTooSkewed", DestinationUnavailable),
    (400, "ThrottlingException", DestinationUnavailable),
    (400, "KMS.ThrottlingException", DestinationUnavailable),
    (409, "OperationAborted", DestinationUnavailable),
    (403, "AccessDenied", DestinationRefusedUs),
    (400, "ExpiredToken", DestinationRefusedUs),
    (404, "NoSuchBucket", DestinationRefusedUs),
    (400, "QueueDoesNotExist", DestinationRefusedUs),
    (400, "KMS.DisabledException", DestinationRefusedUs),
    (400, "InvalidRequest", DestinationRefusedUs),
    (400, "EntityTooLarge", BatchRefused),
    (400, "BatchRequestTooLong", BatchRefused),
    (413, "RequestEntityTooLarge", BatchRefused),
]


def test_an_error_is_the_moments_the_events_or_ours(service: FakeAws) -> None:
    """By its code, where the status alone would mislead."""
    destination = opened(service)
    for status, code, raised in ERRORS:
        service.script.append(service.error(status, code, "of secret k3y-of-the-project"))

        with pytest.raises(raised) as caught:
            destination.deliver([make_event(1)])

        assert code.rpartition(".")[2] in str(caught.value)
        assert "k3y-of-the-project" not in str(caught.value)
        assert caught.value.__cause__ is None and caught.value.__suppress_context__


@pytest.mark.parametrize("service", [FakeSqs, FakeSns], ids=["sqs", "sns"], indirect=True)
@pytest.mark.parametrize("value", ["ada.lovelace@example.com", "Žofie Nováková-Šťastná"], ids=["plain", "accents"])
def test_a_refusal_that_repeats_the_event_is_not_repeated(service: FakeAws, value: str) -> None:
    """It is logged, and no value of an event is."""
    destination = opened(service)
    event = make_event(1, properties={"email": "ada.lovelace@example.com", "name": "Žofie Nováková-Šťastná"})
    service.script.append(service.error(403, "AccessDenied", f"not for the likes of {value}"))

    with pytest.raises(DestinationRefusedUs) as caught:
        destination.deliver([event])

    assert "403 AccessDenied: it repeats what was sent" in str(caught.value)
    assert value[-9:] not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "sender_fault", "whose"),
    [
        ("InternalError", False, "passing"),
        ("RequestThrottled", True, "passing"),
        ("KMSThrottlingException", True, "passing"),
        ("SomethingNew", False, "passing"),
        ("InvalidMessageContents", True, "events"),
        ("InvalidParameterValue", True, "events"),
        ("AccessDenied", True, "us"),
        ("KMSDisabled", True, "us"),
    ],
)
def test_a_message_refused_among_others_may_still_be_nobodys_fault(code: str, sender_fault: bool, whose: str) -> None:
    """AWS calls throttling the sender's fault."""
    assert whose_fault_of_one(code, sender_fault=sender_fault) == whose


@pytest.mark.parametrize(
    ("status", "whose"), [(408, "passing"), (502, "passing"), (501, "us"), (505, "us"), (302, "us")]
)
def test_without_a_code_the_status_decides(status: int, whose: str) -> None:
    """As everywhere."""
    assert whose_fault("", status) == whose


def test_retry_after_is_heard(service: FakeAws) -> None:
    """In seconds."""
    service.script.append(Reply(503, headers={"Retry-After": "7"}))

    with pytest.raises(DestinationUnavailable) as caught:
        opened(service).deliver([make_event(1)])

    assert caught.value.retry_after_s == 7


def test_who_watches_sees_what_was_sent_and_answered(service: FakeAws) -> None:
    """As plain text, S3's object too; nothing of the credentials."""
    seen: list[Exchange] = []
    destination = opened(service, session_token="t0ken-of-the-session")
    destination.deliver([make_event(1)])
    with observed(seen.append):
        destination.deliver([make_event(2)])

    (exchange,) = seen
    (sent,) = service.requests[1:]
    assert (exchange.method, exchange.url) == (sent.method, service.url(sent.path))
    assert make_event(2).id in exchange.body.decode()
    assert exchange.headers["Content-Type"] == sent.headers["content-type"]
    assert exchange.headers["Authorization"] == exchange.headers["X-Amz-Security-Token"] == "***"
    assert exchange.answer is not None and exchange.answer.status == 200
    assert not [secret for secret in (*service.secrets(sent), "t0ken-of-the-session") if secret in repr(exchange)]


def test_who_watches_is_told_why_there_is_no_answer(service: FakeAws) -> None:
    """And that an answer that cannot be read is one all the same."""
    seen: list[Exchange] = []
    service.script.extend([Reply(fault="close_before_response"), Reply(502, b"<html>Bad Gateway")])
    destination = opened(service)

    for _ in range(2):
        with observed(seen.append), pytest.raises(DestinationUnavailable):
            destination.deliver([make_event(1)])

    first, second = seen
    assert (first.answer, "cut the connection" in first.failure) == (None, True)
    assert second.answer is not None
    assert (second.answer.status, second.answer.body, second.failure) == (502, b"<html>Bad Gateway", "")


def test_credentials_that_nobody_configured_are_hidden_as_well(
    service: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A role's token is in the text that SQS says should have been signed, and S3 names one that has expired."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", service.key)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "t0ken-of-the-role")
    destination = opened(service, "accessKey", "secretKey")
    said = f"x-amz-security-token:t0ken-of-the-role of {ACCESS_KEY}"
    service.script.append(service.error(403, "SignatureDoesNotMatch", said))
    seen: list[Exchange] = []

    with observed(seen.append), pytest.raises(DestinationRefusedUs) as caught:
        destination.deliver([make_event(1)])

    (exchange,) = seen
    assert service.requests[0].headers["x-amz-security-token"] == "t0ken-of-the-role"
    assert exchange.answer is not None and b"x-amz-security-token:*** of ***" in exchange.answer.body
    assert "x-amz-security-token:*** of ***" in str(caught.value)
    assert "t0ken-of-the-role" not in str(caught.value) + repr(exchange)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"accessKey": ""}, "access_key must not be empty"),
        ({"secretKey": "  "}, "secret_key must not be empty"),
        ({"region": ""}, "region must not be empty"),
        ({"endpoint": "minio:9000"}, "endpoint is not a URL"),
        ({"request_timeout_s": 0}, "request_timeout_s must be positive"),
        ({"secret": "x"}, "is not a setting"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(service: FakeAws, options: dict[str, Any], told: str) -> None:
    """Before anything starts, with the place."""
    with pytest.raises(ConfigError, match=told):
        build(service, **options)


@pytest.mark.parametrize(
    ("without", "options", "told"),
    [
        (["secretKey"], {}, "go together"),
        (["accessKey"], {}, "go together"),
        (["accessKey", "secretKey"], {"sessionToken": "x"}, "session_token .* needs access_key"),
    ],
)
def test_half_a_pair_of_keys_is_refused(
    service: FakeAws, without: list[str], options: dict[str, Any], told: str
) -> None:
    """It would quietly be taken for none."""
    with pytest.raises(ConfigError, match=told):
        build(service, *without, **options)


@pytest.mark.parametrize("kind", ["s3", "sqs", "sns"])
def test_without_botocore_the_message_names_the_extra(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At start-up."""
    for name in [name for name in sys.modules if name.split(".")[0] == "botocore"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("aws", "s3", "sqs", "sns"):
        monkeypatch.delitem(sys.modules, f"wal_tracker_destinations.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "botocore", None)

    with pytest.raises(PluginError, match=rf"needs the library 'botocore'.*pip install 'wal_tracker\[{kind}\]'"):
        registry.load(kind)
