"""The committed modules are what the generator writes, and the generator refuses what it does not know."""

from __future__ import annotations

import json

import pytest

from broker.protocol.api_keys import APIS, ApiKey, api_name
from broker.protocol.generator import kafka_json
from broker.protocol.generator.__main__ import FOLDER, main
from broker.protocol.generator.module import write_module
from broker.protocol.generator.schema import NEVER, NO_LAST, SchemaError, Versions, layout_of, min_size, snake
from broker.protocol.generator.served import SERVED
from tests.unit.protocol.oracles import catalogue


def test_committed_modules_are_up_to_date():
    assert main(["--check"]) == 0


def test_check_sees_a_changed_a_missing_and_a_stale_file(tmp_path):
    assert main(["--output", str(tmp_path)]) == 0
    assert main(["--check", "--output", str(tmp_path)]) == 0
    (tmp_path / "metadata.py").write_text("changed")
    assert main(["--check", "--output", str(tmp_path)]) == 1
    (tmp_path / "metadata.py").unlink()
    assert main(["--check", "--output", str(tmp_path)]) == 1
    (tmp_path / "stale.py").write_text("")
    assert main(["--output", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in FOLDER.glob("*.py"))


def test_served_versions_are_within_the_schemas():
    for key, (first, last) in SERVED.items():
        assert APIS[key].first_version <= first <= last <= APIS[key].last_version


def test_a_version_outside_the_schema_is_refused():
    with pytest.raises(SchemaError, match="Metadata"):
        write_module(catalogue()[3], Versions(0, 99))


def definition(**field):
    return json.dumps(
        {
            "apiKey": 999,
            "type": "request",
            "name": "OddRequest",
            "validVersions": "0",
            "flexibleVersions": "none",
            "fields": [{"name": "Odd", "versions": "0+", **field}],
        }
    )


def test_unknown_types_and_defaults_are_refused():
    with pytest.raises(SchemaError, match=r"OddRequest\.Odd.*int128"):
        kafka_json.parse(definition(type="int128"))
    with pytest.raises(SchemaError, match=r"OddRequest\.Odd"):
        kafka_json.parse(definition(type="[]int32", default="7"))
    schema = kafka_json.parse(definition(type="[]bytes"))
    with pytest.raises((SchemaError, KeyError)):
        write_module([schema], Versions(0, 0))


def test_an_array_of_empty_structs_still_has_a_size():
    schema = kafka_json.parse(definition(type="[]Nothing", fields=[{"name": "Later", "type": "int32", "versions": "5+"}]))
    nested = layout_of(schema.root, 0, False).fields[0].struct
    assert nested is not None and not nested.fields and min_size(nested) == 1


@pytest.mark.parametrize(
    ("text", "versions"), [("3", Versions(3, 3)), ("0-5", Versions(0, 5)), ("2+", Versions(2, NO_LAST)), ("none", NEVER), (None, NEVER), ("", NEVER)]
)
def test_version_ranges(text, versions):
    assert Versions.parse(text) == versions
    assert 1 not in NEVER


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("AllowAutoTopicCreation", "allow_auto_topic_creation"),
        ("timeoutMs", "timeout_ms"),
        ("TTLMs", "ttl_ms"),
        ("V3AndBelowTopics", "v3_and_below_topics"),
    ],
)
def test_field_names(name, expected):
    assert snake(name) == expected


def test_sources_agree_where_both_have_a_message():
    """kio's classes, merged, describe the same bytes as Kafka's own definitions: a check of the source that stands in for it."""
    from broker.protocol.generator import kio_source

    for package in ("metadata", "create_topics", "describe_topic_partitions", "find_coordinator", "offset_fetch"):
        for merged in kio_source.of_package(package):
            written = next(schema for schema in catalogue()[merged.api_key] if schema.name == merged.name)
            for version in range(written.versions.first, written.versions.last + 1):
                assert shape(layout_of(merged.root, version, version in merged.flexible)) == shape(
                    layout_of(written.root, version, version in written.flexible)
                )


def shape(layout):
    return [
        (item.field.name, item.field.type, item.field.array, item.nullable, item.tag, item.flexible, item.struct and shape(item.struct))
        for item in layout.fields
    ]


def test_api_keys():
    assert ApiKey.PRODUCE == 0 and ApiKey.API_VERSIONS == 18 and ApiKey.OFFSET_FOR_LEADER_EPOCH == 23
    assert APIS[ApiKey.METADATA] == ("Metadata", 0, 13, 9)
    assert APIS[ApiKey.SASL_HANDSHAKE].first_flexible_version == APIS[ApiKey.OFFSET_DELETE].first_flexible_version == 32767
    assert api_name(1) == "Fetch" and api_name(12345) == "key 12345"
