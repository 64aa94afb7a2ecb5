"""Configuration: precedence, origins, refusals in the user's words, derived values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.config import Seed, single_node
from cli import config as config_module
from cli.config import ConfigError, find_file, load, node_config, parse_seed, split_address
from cli.keys import KEYS
from cli.render import size_text, toml_lines


@pytest.fixture
def write(tmp_path):
    def make(text):
        path = tmp_path / "chronik.toml"
        path.write_text(text)
        return path

    return make


def problems(flags=None, env=None, path=None, kafka=None):
    with pytest.raises(ConfigError) as caught:
        load(flags or {}, env or {}, path, kafka)
    return caught.value.problems


def test_without_anything_it_is_a_single_node(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config_module, "SYSTEM_DATA_DIR", tmp_path / "nowhere" / "data")
    node = node_config(load({}, {}, None))
    assert (node.node_id, node.kafka_port, node.admin_port, node.raft_port) == (1, 9092, 8080, 9093)
    assert (node.cluster_enabled, node.seeds) == (False, ())
    assert node.data_dir == tmp_path / "chronik-data"
    assert (node.raft.election_timeout_ms, node.raft.election_timeout_ms_max, node.raft.heartbeat_interval_ms) == (1000, 1500, 80)
    expected = single_node(tmp_path / "chronik-data")
    assert (node.raft, node.network, node.storage, node.kafka) == (expected.raft, expected.network, expected.storage, {})


def test_the_system_directory_is_taken_when_it_is_writable(tmp_path, monkeypatch):
    (tmp_path / "chronik").mkdir()
    monkeypatch.setattr(config_module, "SYSTEM_DATA_DIR", tmp_path / "chronik" / "data")
    assert node_config(load({}, {}, None)).data_dir == tmp_path / "chronik" / "data"


def test_flag_over_environment_over_file_over_default(write):
    path = write("kafka_port = 1001\nadmin_port = 1002\n[cluster]\nnode_id = 7\n")
    env = {"CHRONIK_KAFKA_PORT": "2001", "CHRONIK_ADMIN_PORT": "2002"}
    settings = load({"kafka_port": "3001"}, env, path)
    shown = {name: (settings.values[name], settings.origins[name]) for name in ("kafka_port", "admin_port", "cluster.node_id", "kafka_host")}
    assert shown == {
        "kafka_port": (3001, "flag"),
        "admin_port": (2002, "environment CHRONIK_ADMIN_PORT"),
        "cluster.node_id": (7, str(path)),
        "kafka_host": ("0.0.0.0", "default"),
    }


def test_the_own_environment_name_is_stronger_than_the_common_one():
    assert load({}, {"RUST_LOG": "debug"}, None).text("log") == "debug"
    assert load({}, {"RUST_LOG": "debug", "CHRONIK_LOG": "warn"}, None).text("log") == "warn"


def test_the_wal_profile_of_the_document():
    assert node_config(load({}, {"CHRONIK_WAL_PROFILE": "low"}, None)).storage.profile == "low"
    assert problems(env={"CHRONIK_WAL_PROFILE": "max"}) == [
        "cluster.storage.wal_profile is 'max', but must be one of low, medium, high, ultra (environment CHRONIK_WAL_PROFILE)"
    ]


def test_kafka_settings_quoted_unquoted_and_from_everywhere(write):
    path = write('[kafka]\n"num.partitions" = 6\nauto.create.topics.enable = false\n')
    settings = load({}, {"CHRONIK_KAFKA__MESSAGE_MAX_BYTES": "2000"}, path, {"default.replication.factor": "3"})
    node = node_config(settings)
    assert node.kafka == {"num.partitions": "6", "auto.create.topics.enable": "false", "message.max.bytes": "2000", "default.replication.factor": "3"}
    typed = node.kafka_settings()
    assert (typed["num.partitions"], typed["auto.create.topics.enable"], typed["broker.id"]) == (6, False, 1)


def test_unknown_keys_are_refused_with_the_nearest(write):
    path = write('kafka_prt = 1\n[cluster.raft]\nelection_timeout = 5\n[kafka]\n"num.partition" = 3\n[custer]\nnode_id = 1\n')
    found = problems(path=path)
    assert f"unknown key 'kafka_prt' ({path}); did you mean 'kafka_port'?" in found
    assert f"unknown key 'cluster.raft.election_timeout' ({path}); did you mean 'cluster.raft.election_timeout_ms'?" in found
    assert f"unknown Kafka setting 'num.partition' ({path}); did you mean 'num.partitions'?" in found
    assert any(problem.startswith("unknown key 'custer'") for problem in found)
    assert problems({"node_id": "2"}) == ["unknown key 'node_id' (flag); did you mean 'cluster.node_id'?"]


def test_an_unknown_environment_variable_is_only_warned_about():
    # Kubernetes sets CHRONIK_SERVICE_HOST for a service named chronik.
    settings = load({}, {"CHRONIK_SERVICE_HOST": "10.0.0.1", "CHRONIK_KAFKA_PROT": "1", "HOME": "/"}, None)
    assert len(settings.warnings) == 2
    assert "did you mean 'CHRONIK_KAFKA_PORT'?" in settings.warnings[0]


def test_wrong_values_say_where_and_what():
    assert problems(env={"CHRONIK_KAFKA_PORT": "tcp://10.0.0.1:9092"}) == [
        "kafka_port must be a whole number, not 'tcp://10.0.0.1:9092' (environment CHRONIK_KAFKA_PORT)"
    ]
    assert problems({"kafka_port": "0"}) == ["kafka_port is 0, but must be from 1 to 65535 (flag)"]
    assert problems(kafka={"num.partitions": "x"}) == ["Invalid value x for configuration num.partitions: Not a number of type INT (flag)"]
    assert problems({"kafka_port": 9092, "admin_port": 9092}) == ["kafka_port and admin_port are both 9092; give each listener a port of its own"]


def test_a_seed_without_id_is_refused_word_for_word():
    assert problems({"cluster.seed_nodes": ["node1:9093"]}) == ["seed_nodes entry 'node1:9093' has no node id; write '1@node1:9093'"]


@pytest.mark.parametrize(
    ("seed", "text"),
    [
        ("x@node1:9093", "has no numeric node id"),
        ("0@node1:9093", "ids are from 1 to 65535"),
        ("1@node1", "is not an address; write host:port"),
        ("1@node1:99999", "is not an address"),
        ("1@::1:9093", "is not an address"),
    ],
)
def test_other_wrong_seeds(seed, text):
    with pytest.raises(ValueError, match=text):
        parse_seed(seed)


def test_good_seeds():
    assert parse_seed("12@node1.internal:9093") == Seed(12, "node1.internal:9093")
    assert parse_seed("1@[::1]:9093") == Seed(1, "[::1]:9093")
    assert problems({"cluster.seed_nodes": ["1@a:1", "1@b:1"]}) == ["seed_nodes names node id 1 more than once; ids are unique"]


@pytest.mark.parametrize(("election", "beat", "refused"), [(1000, 99, False), (1000, 100, True), (200, 19, False), (200, 20, True)])
def test_the_beat_is_less_than_a_tenth_of_the_election_timeout(election, beat, refused):
    flags = {"cluster.raft.election_timeout_ms": election, "cluster.raft.heartbeat_interval_ms": beat}
    if refused:
        assert "must be less than a tenth" in problems(flags)[0]
    else:
        assert node_config(load(flags, {}, None)).raft.election_timeout_ms_max == election * 3 // 2


def test_a_message_is_larger_than_a_chunk():
    flags = {"cluster.raft.max_snapshot_chunk_size": 2097152, "cluster.network.max_message_size": 2097152}
    assert problems(flags) == ["cluster.network.max_message_size (2097152) must be more than cluster.raft.max_snapshot_chunk_size (2097152)"]
    load({**flags, "cluster.network.max_message_size": 8388608}, {}, None)


def test_encryption_that_is_not_there_is_refused_not_ignored():
    assert "not encrypted in this version" in problems({"cluster.network.tls_cert_file": "/x"})[0]


def test_storage_that_is_not_served_is_not_ignored(tmp_path):
    where = {"data_dir": str(tmp_path)}
    assert "make that a symbolic link" in problems({**where, "cluster.storage.wal_dir": "/mnt/ssd"})[0]
    assert node_config(load({**where, "cluster.storage.wal_dir": str(tmp_path / "wal")}, {}, None)).storage.wal_dir == tmp_path / "wal"
    assert problems({"cluster.storage.wal_segment_size": 100_001})[0].endswith("must be a multiple of 4096; write 98304")
    assert "is not served in this version" in load({"cluster.storage.wal_sync_mode": "periodic"}, {}, None).warnings[0]


def test_cluster_is_enabled_by_what_points_to_others():
    seeds = {"cluster.seed_nodes": ["1@a:9093", "2@b:9093"], "cluster.node_id": 2}
    node = node_config(load(seeds, {}, None))
    assert (node.cluster_enabled, node.seeds, node.advertised_raft_address) == (True, (Seed(1, "a:9093"), Seed(2, "b:9093")), "b:9093")
    assert node_config(load({"cluster.node_addr": "127.0.0.1:7000"}, {}, None)).advertised_raft_address == "127.0.0.1:7000"
    off = node_config(load({**seeds, "cluster.enabled": "false"}, {}, None))
    assert (off.cluster_enabled, off.seeds) == (False, ())
    assert node_config(load({"cluster.enabled": True}, {}, None)).seeds == ()
    assert node_config(load({"advertised_host": "me", "cluster.enabled": True}, {}, None)).advertised_raft_address == "me:9093"


def test_both_places_of_the_snapshot_timeout(write):
    text = "[cluster.raft]\ninstall_snapshot_timeout_secs = 5\n"
    assert node_config(load({}, {}, write(text))).network.install_snapshot_timeout_s == 5
    text += "[cluster.network]\ninstall_snapshot_timeout_secs = 600\n"
    assert node_config(load({}, {}, write(text))).network.install_snapshot_timeout_s == 600


def test_files_that_can_not_be_read(tmp_path, write):
    assert "does not exist" in find_problem(lambda: find_file(str(tmp_path / "x"), {}))
    assert "(CHRONIK_CONFIG) does not exist" in find_problem(lambda: find_file(None, {"CHRONIK_CONFIG": "/x/y"}))
    assert "is not valid TOML" in problems(path=write("a = "))[0]
    path = write("")
    path.write_bytes(b"\xff")
    assert "is not valid TOML" in problems(path=path)[0]


def find_problem(action):
    with pytest.raises(ConfigError) as caught:
        action()
    return str(caught.value)


def test_what_is_printed_can_be_read_again(write):
    given_flags = {"cluster.seed_nodes": ["1@a:9093"], "data_dir": '/tmp/a "b"', "log_timestamps": "on"}
    first = load(given_flags, {}, None, {"num.partitions": "3"})
    path = write("\n".join(toml_lines(first, origin=True)))
    second = load({}, {}, path)
    assert node_config(second) == node_config(first)
    assert "kafka_port = 9092  # default" in path.read_text()
    assert '"num.partitions" = "3"  # flag' in path.read_text()


def test_settings_without_effect_are_warned_about():
    assert load({}, {}, None, {"unclean.leader.election.enable": "true"}).warnings == [
        "these Kafka settings are accepted, but have no effect in this version: unclean.leader.election.enable"
    ]


def test_sizes():
    assert [size_text(size) for size in (5, 1536, 3 * 1024**2, 2048 * 1024**4)] == ["5 B", "1.5 KiB", "3.0 MiB", "2048.0 TiB"]


@given(st.sampled_from(sorted(KEYS)), st.one_of(st.text(max_size=20), st.integers(), st.booleans(), st.lists(st.text(max_size=5)), st.floats()))
def test_any_value_is_taken_or_refused_with_the_name_of_its_key(name, raw):
    try:
        node_config(load({name: raw}, {}, None))
    except ConfigError as error:
        assert error.problems


@given(st.text(max_size=30))
def test_any_address_is_split_or_refused(text):
    try:
        host, port = split_address(text, "x")
    except ValueError:
        return
    assert host
    assert 1 <= port <= 65_535
