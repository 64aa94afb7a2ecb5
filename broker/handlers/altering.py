"""What AlterConfigs and IncrementalAlterConfigs share: checks without the controller, and one change per resource, each with its own outcome."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from broker.errors import ErrorCode, KafkaError
from broker.handlers.services import Services
from broker.handlers.topic_names import name_problem

TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP = 2, 4, 8, 16, 32
TIMEOUT_MS = 30_000
"""The requests carry no time limit; Kafka's forwarding has this one (request.timeout.ms)."""

_REFUSED = {
    BROKER_LOGGER: "Log levels are set where the broker is started (CHRONIK_LOG); they can not be changed while it runs.",
    CLIENT_METRICS: "Client metrics (KIP-714) are not served.",
    GROUP: "Settings of groups (KIP-848) are not served.",
}


class Alteration(NamedTuple):
    """The settings to change of one resource: (key, value, operation)."""

    resource_type: int
    name: str
    changes: Sequence[tuple[str, str | None, int]]


class Outcome(NamedTuple):
    code: ErrorCode
    message: str | None


def unsupported_resource(resource_type: int) -> KafkaError:
    """Why settings of a resource that is neither a topic nor a broker can not be had."""
    text = _REFUSED.get(resource_type, f"Unknown resource type {resource_type}; topics (2) and brokers (4) have settings.")
    return KafkaError(ErrorCode.INVALID_REQUEST, text)


async def alter(services: Services, alterations: Sequence[Alteration], validate_only: bool, replace: bool) -> list[Outcome]:
    """Carry them out, all at once; outcomes in their order. One that fails leaves the others alone."""
    times = Counter((one.resource_type, one.name) for one in alterations)
    return list(await asyncio.gather(*(_alter_one(services, one, times, validate_only, replace) for one in alterations)))


async def _alter_one(services: Services, one: Alteration, times: Counter[tuple[int, str]], validate_only: bool, replace: bool) -> Outcome:
    try:
        if times[one.resource_type, one.name] > 1:
            raise KafkaError(ErrorCode.INVALID_REQUEST, "Each resource must appear at most once.")
        _check(services, one)
        await services.broker.controller.alter_configs(one.resource_type, one.name, one.changes, TIMEOUT_MS, validate_only, replace)
    except KafkaError as error:
        return Outcome(error.code, error.message or error.code.name)
    return Outcome(ErrorCode.NONE, None)


def _check(services: Services, one: Alteration) -> None:
    if one.resource_type not in (TOPIC, BROKER):
        raise unsupported_resource(one.resource_type)
    if one.resource_type == TOPIC:
        problem = name_problem(one.name)
        if problem:
            raise KafkaError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic name is invalid: {problem}")
        if services.topic(one.name) is None:
            raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"The topic '{one.name}' does not exist.")
    keys = Counter(key for key, _, _ in one.changes)
    repeated = sorted(key for key, count in keys.items() if count > 1)
    if repeated:
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"Error due to duplicate config keys: {', '.join(repeated)}")
    null = sorted(key for key, value, operation in one.changes if value is None and operation != 1)
    if null:
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"Null value not supported for : {', '.join(null)}")
