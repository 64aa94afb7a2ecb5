"""A batch of operations in the making: the records so far, and the image as it would be with them. Used on the leader of `__meta` only.

Invariant: `image` = base image + `records`, so that an operation is validated against everything before it in the same batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from broker import settings
from broker.errors import ErrorCode, KafkaError
from broker.metadata.assignment import BrokerLoad
from broker.metadata.builder import ImageBuilder
from broker.metadata.image import MetadataImage
from broker.metadata.records import Record, TopicCreated


class ItemResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one of an operation's items (a topic). `topic` is only filled where nothing was changed (validate_only)."""

    error: int = 0
    message: str | None = None
    name: str = ""
    topic_id: bytes = b""
    topic: TopicCreated | None = None

    @staticmethod
    def of(error: KafkaError, name: str = "", topic_id: bytes = b"") -> ItemResult:
        return ItemResult(int(error.code), error.message or None, name, topic_id)


class OperationResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to an operation. `error` concerns it as a whole: then nothing of it was done, except for REQUEST_TIMED_OUT, which means unknown."""

    error: int = 0
    message: str = ""
    items: tuple[ItemResult, ...] = ()
    value: int = 0

    @staticmethod
    def of(error: KafkaError) -> OperationResult:
        return OperationResult(int(error.code), error.message)

    def raise_error(self) -> None:
        """Raise the KafkaError that `error` stands for, if any."""
        if self.error:
            raise KafkaError(ErrorCode(self.error), self.message)


@dataclass(frozen=True, slots=True)
class ControllerPolicy:
    """What the controller decides by, besides the image.

    `validate_topic_configs` takes all settings of a topic and returns them as they are stored; `validate_broker_config` takes (name, value); both
    raise KafkaError(INVALID_CONFIG). `available` tells which brokers answer now; None = all are believed to.
    """

    default_partitions: int = 1
    default_replication_factor: int = 1
    partitions_per_request_max: int = 10_000
    validate_topic_configs: Callable[[Mapping[str, str | None]], dict[str, str]] = settings.validate_topic_configs
    validate_broker_config: Callable[[str, str], object] = settings.validate_broker_config
    available: Callable[[], frozenset[int]] | None = None


class Draft:
    """See the module."""

    __slots__ = ("_base", "_builder", "_load", "_view", "policy", "records")

    def __init__(self, base: MetadataImage, policy: ControllerPolicy) -> None:
        self.policy = policy
        self.records: list[Record] = []
        self._base = base
        self._builder = ImageBuilder(base)
        self._view: MetadataImage | None = base
        self._load: BrokerLoad | None = None

    @property
    def image(self) -> MetadataImage:
        """Valid until the next `add`."""
        if self._view is None:
            self._view = self._builder.view(self._base.version)
        return self._view

    @property
    def load(self) -> BrokerLoad:
        """The cluster's load, this batch's placements included (`assignment.place` adds them)."""
        if self._load is None:
            self._load = BrokerLoad.of_image(self.image)
        return self._load

    def add(self, record: Record) -> None:
        self._view = None
        self._builder.apply(record)
        self.records.append(record)

    def rollback(self, count: int) -> None:
        """Keep the first `count` records only."""
        self._load = None
        if count == len(self.records):
            return
        kept = self.records[:count]
        self.records = []
        self._builder = ImageBuilder(self._base)
        for record in kept:
            self.add(record)
        self._view = None

    def unavailable(self) -> frozenset[int]:
        """Registered brokers that do not answer."""
        if self.policy.available is None:
            return frozenset()
        return frozenset(self.image.brokers) - self.policy.available()
