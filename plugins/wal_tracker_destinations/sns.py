"""
Topics in Amazon SNS, standard and FIFO.

See: https://docs.aws.amazon.com/sns/latest/api/API_PublishBatch.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from wal_tracker_destinations.aws import AwsClient, AwsOptions
from wal_tracker_destinations.sqs import MessageOptions, Messages, message_limits

_TOPIC = re.compile(r"arn:aws[a-z-]*:sns:([a-z0-9-]+):\d{12}:[A-Za-z0-9_-]{1,256}(?:\.fifo)?")


class Sns(Messages):
    """
    Publishes to one topic, in order, ten messages a request; subscriptions may filter by the attribute ``event``.

    A FIFO topic (its ARN ends in ``.fifo``) drops what comes again within five minutes, by the event's id, and keeps
    the order within a group (`group`); two messages of one group never share a request, because one may fail while the
    other is taken, so with ``table`` a request often holds one message. A standard topic keeps order as well as it can
    and drops nothing: subscribers tell duplicates by the attribute ``id``.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(MessageOptions):
        """Options of one topic; the role needs ``sns:Publish``, and of an encrypted topic its key."""

        topic_arn: str
        """Such as ``arn:aws:sns:eu-west-1:123456789012:events.fifo``."""
        max_message_bytes: int = 256 * 1024
        """Of a message, and of all in a request; up to 1 MiB where the topic's MaximumMessageSize is that."""

        def __post_init__(self) -> None:
            AwsOptions.__post_init__(self)
            if not _TOPIC.fullmatch(self.topic_arn):
                raise ValueError("topic_arn (topicArn) is not an ARN such as arn:aws:sns:eu-west-1:123456789012:events")
            if not 1024 <= self.max_message_bytes <= 1024 * 1024:
                raise ValueError(f"max_message_bytes must be from 1024 to {1024 * 1024}")

    vendor = "SNS"
    limits = message_limits(256 * 1024)
    operation = "publish_batch"
    target_parameter, entries_parameter, body_parameter = "TopicArn", "PublishBatchRequestEntries", "Message"

    def __init__(self, name: str, config: Config) -> None:
        """
        Args:
            name: The entry's key in the configuration.
            config: See there.
        """
        self.config = config
        topic = _TOPIC.fullmatch(config.topic_arn)
        aws = AwsClient(name, "sns", config, region=topic[1] if topic else None)
        super().__init__(name, config, aws, config.topic_arn, config.max_message_bytes)
