"""DescribeConfigs (key 32), versions 1-4: settings of topics and of this broker, with their origin.

v1 source and synonyms · v2 same · v3 type and documentation · v4 flexible. A resource of another kind is INVALID_REQUEST. Null keys mean all;
unknown keys are left out.
"""

from __future__ import annotations

from broker.errors import ErrorCode, KafkaError
from broker.handlers.altering import BROKER, TOPIC, unsupported_resource
from broker.handlers.services import Services
from broker.handlers.topic_names import name_problem
from broker.handlers.topic_settings import ConfigSource, DescribedSetting, SettingsView
from broker.handlers.typed import typed_route
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResourceResult,
    DescribeConfigsResponse,
    DescribeConfigsResult,
    DescribeConfigsSynonym,
)

KEY = 32
VERSIONS = (1, 4)


def route(services: Services) -> Route:
    return typed_route(services, KEY, VERSIONS, DescribeConfigsRequest, handle, on_error)


def handle(services: Services, request: Request, body: DescribeConfigsRequest) -> DescribeConfigsResponse:
    results = []
    for resource in body.resources:
        result = DescribeConfigsResult(error_message=None, resource_type=resource.resource_type, resource_name=resource.resource_name)
        try:
            described = _describe(services, resource)
            result.configs = [_encode(one, body) for one in described]
        except KafkaError as error:
            result.error_code = error.code
            result.error_message = error.message or None
        results.append(result)
    return DescribeConfigsResponse(results=results)


def on_error(body: DescribeConfigsRequest, code: int, message: str) -> DescribeConfigsResponse:
    return DescribeConfigsResponse(
        results=[
            DescribeConfigsResult(error_code=code, error_message=message or None, resource_type=one.resource_type, resource_name=one.resource_name)
            for one in body.resources
        ]
    )


def _describe(services: Services, resource: DescribeConfigsResource) -> list[DescribedSetting]:
    broker = services.broker
    view = SettingsView(broker.static_settings, broker.image.broker_configs, broker.node_id)
    name = resource.resource_name
    keys = resource.configuration_keys
    if resource.resource_type == TOPIC:
        problem = name_problem(name)
        if problem:
            raise KafkaError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic name is invalid: {problem}")
        topic = services.topic(name)
        if topic is None:
            raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"There is no topic {name!r}.")
        return view.topic(topic.configs, keys)
    if resource.resource_type == BROKER:
        if not name:
            return view.cluster_default(keys)
        if name != str(broker.node_id):
            text = f"Unexpected broker id, expected {broker.node_id} or an empty name, but received {name!r}: ask that broker itself."
            raise KafkaError(ErrorCode.INVALID_REQUEST, text)
        return view.broker(keys)
    raise unsupported_resource(resource.resource_type)


def _encode(one: DescribedSetting, body: DescribeConfigsRequest) -> DescribeConfigsResourceResult:
    definition = one.definition
    result = DescribeConfigsResourceResult(
        name=definition.name,
        value=one.value,
        read_only=definition.read_only,
        config_source=one.source,
        is_default=one.source == ConfigSource.DEFAULT,
        is_sensitive=definition.sensitive,
        config_type=definition.type,
        documentation=definition.doc if body.include_documentation else None,
    )
    if body.include_synonyms:
        result.synonyms = [
            DescribeConfigsSynonym(name=name, value=None if definition.sensitive else value, source=source) for name, value, source in one.origins
        ]
    return result
