"""Kafka settings: the tables agree with each other, texts are checked as Kafka does, topics inherit from the broker."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import ErrorCode, KafkaError
from broker.handlers.topic_settings import ConfigSource, SettingsView
from broker.settings import (
    BROKER_SETTINGS,
    TOPIC_SETTINGS,
    Range,
    SettingType,
    broker_settings,
    format_value,
    parse,
    topic_config,
    topic_default,
    validate_broker_config,
    validate_topic_config,
    validate_topic_configs,
    without_effect,
)

ALL = [*TOPIC_SETTINGS.values(), *BROKER_SETTINGS.values()]


@pytest.mark.parametrize("definition", ALL, ids=lambda definition: definition.name)
def test_every_default_is_valid_and_documented(definition):
    assert definition.doc.endswith(".")
    if definition.default is not None:
        value = parse(definition, definition.default)
        assert parse(definition, format_value(value)) == value


def test_synonyms_exist_have_the_same_default_and_act_alike():
    inherited = topic_config({}, broker_settings({}))
    for name, definition in TOPIC_SETTINGS.items():
        assert inherited[name] == definition.default_value, name
        for synonym in definition.synonyms:
            assert BROKER_SETTINGS[synonym].acts == definition.acts, synonym


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("x", "1", "Unknown topic config name: x"),
        ("retention.ms", "abc", "Invalid value abc for configuration retention.ms: Not a number of type LONG"),
        ("retention.ms", "1_000", "Invalid value 1_000 for configuration retention.ms: Not a number of type LONG"),
        ("retention.ms", "9223372036854775808", "Invalid value 9223372036854775808 for configuration retention.ms: Not a number of type LONG"),
        ("max.message.bytes", "2147483648", "Invalid value 2147483648 for configuration max.message.bytes: Not a number of type INT"),
        ("max.message.bytes", "16777217", "Invalid value 16777217 for configuration max.message.bytes: Value must be no more than 16777216"),
        ("min.insync.replicas", "0", "Invalid value 0 for configuration min.insync.replicas: Value must be at least 1"),
        ("min.cleanable.dirty.ratio", "nan", "Invalid value nan for configuration min.cleanable.dirty.ratio: Not a number of type DOUBLE"),
        ("cleanup.policy", "delete,never", "Invalid value delete,never for configuration cleanup.policy: String must be one of: compact, delete"),
        (
            "message.timestamp.type",
            "Now",
            "Invalid value Now for configuration message.timestamp.type: String must be one of: CreateTime, LogAppendTime",
        ),
        ("preallocate", "yes", "Invalid value yes for configuration preallocate: Expected value to be either true or false"),
        ("retention.ms", None, "Null value not supported for topic configs: retention.ms"),
    ],
)
def test_refusals_have_kafkas_words(name, value, text):
    with pytest.raises(KafkaError) as caught:
        validate_topic_config(name, value)
    assert caught.value.code is ErrorCode.INVALID_CONFIG
    assert caught.value.message == text


def test_related_settings_of_a_topic_are_checked_together():
    assert validate_topic_configs({"cleanup.policy": " compact , delete ", "retention.ms": " 5 "}) == {
        "cleanup.policy": "compact,delete",
        "retention.ms": "5",
    }
    with pytest.raises(KafkaError, match=r"min\.compaction\.lag\.ms \(9\) > max\.compaction\.lag\.ms \(5\)"):
        validate_topic_configs({"min.compaction.lag.ms": "9", "max.compaction.lag.ms": "5"})


def test_topic_inherits_from_the_broker_the_strongest_synonym_wins():
    retention = TOPIC_SETTINGS["retention.ms"]
    assert topic_default(retention, broker_settings({"log.retention.hours": "1"})) == (3_600_000, "log.retention.hours")
    assert topic_default(retention, broker_settings({"log.retention.hours": "1", "log.retention.minutes": "5"})) == (300_000, "log.retention.minutes")
    assert topic_default(retention, broker_settings({"log.retention.minutes": "5", "log.retention.ms": "7"})) == (7, "log.retention.ms")
    assert topic_default(retention, broker_settings({"log.retention.hours": "-1"})) == (-1, "log.retention.hours")
    assert topic_default(retention, {}) == (604_800_000, "")
    settings = broker_settings({"message.max.bytes": "2000"})
    assert topic_config({}, settings)["max.message.bytes"] == 2000
    assert topic_config({"max.message.bytes": "3000"}, settings)["max.message.bytes"] == 3000


def test_an_override_of_a_later_version_is_left_out():
    assert "setting.of.tomorrow" not in topic_config({"setting.of.tomorrow": "1"}, broker_settings({}))


def test_broker_settings_are_typed_and_unknown_ones_refused():
    settings = broker_settings({"num.partitions": "12", "auto.create.topics.enable": "FALSE"})
    assert settings["num.partitions"] == 12
    assert settings["auto.create.topics.enable"] is False
    assert settings["replica.lag.time.max.ms"] == 30_000
    with pytest.raises(KafkaError, match=r"Unknown broker config name: num\.partition"):
        validate_broker_config("num.partition", "1")


def test_a_password_is_never_shown():
    definition = BROKER_SETTINGS["ssl.keystore.password"]
    assert definition.type is SettingType.PASSWORD
    assert definition.sensitive


def test_what_has_no_effect_is_known():
    assert without_effect(["num.partitions", "unclean.leader.election.enable", "x"], BROKER_SETTINGS) == ["unclean.leader.election.enable"]


def test_range_description():
    assert [Range(0).describe(), Range(0, 3).describe(), Range(None, 3).describe()] == ["[0,...]", "[0,3]", "[...,3]"]


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_long_survives(number):
    definition = TOPIC_SETTINGS["flush.ms"]
    if number < 0:
        with pytest.raises(KafkaError):
            parse(definition, str(number))
    else:
        assert parse(definition, str(number)) == number


@given(st.sampled_from(ALL), st.text(max_size=30))
def test_any_text_is_parsed_or_refused_as_invalid_config(definition, text):
    try:
        value = parse(definition, text)
    except KafkaError as error:
        assert error.code is ErrorCode.INVALID_CONFIG
    else:
        assert parse(definition, format_value(value)) == value


def test_a_topic_tells_its_retention_in_ms_and_the_broker_s_in_its_own_unit() -> None:
    def told(**static: str) -> tuple[str | None, int, list[tuple[str, str | None]]]:
        settings = broker_settings({name.replace("_", "."): value for name, value in static.items()})
        (one,) = SettingsView(settings, {}, 1).topic({}, ["retention.ms"])
        return one.value, one.source, [(origin.name, origin.value) for origin in one.origins]

    assert told() == ("604800000", ConfigSource.DEFAULT, [("log.retention.hours", "168")])
    assert told(log_retention_hours="1") == ("3600000", ConfigSource.STATIC_BROKER, [("log.retention.hours", "1")])
    assert told(log_retention_minutes="5")[0] == "300000"
    (one,) = SettingsView(broker_settings({}), {-1: {"log.retention.ms": "7000"}}, 1).topic({}, ["retention.ms"])
    assert (one.value, one.source) == ("7000", ConfigSource.DYNAMIC_DEFAULT_BROKER)
