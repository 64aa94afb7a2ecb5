"""What is shipped for deployment fits the program: the example file is valid, compose uses known variables, ports do not collide."""

import re
from pathlib import Path

from cli.config import load, node_config
from cli.exits import Exit

ROOT = Path(__file__).resolve().parents[3]


def test_the_example_file_is_valid():
    settings = load({}, {}, ROOT / "deploy" / "chronik.toml")
    node = node_config(settings)
    assert (node.cluster_enabled, node.node_id, len(node.seeds), node.advertised_raft_address) == (True, 1, 3, "node1:9093")
    assert settings.warnings == []


def test_compose_sets_only_known_variables_and_distinct_ports():
    text = (ROOT / "docker-compose.yml").read_text()
    common = dict(re.findall(r"^  (CHRONIK_\w+): \"?([^\"\n]+)\"?$", text, re.MULTILINE))
    common = {name: re.sub(r"\$\{\w+:-(\w+)\}", r"\1", value) for name, value in common.items()}
    ports = set()
    for number in (1, 2, 3):
        block = text.partition(f"  node{number}:\n")[2].partition("    volumes:")[0]
        own = dict(re.findall(r"^      (CHRONIK_\w+): \"?([^\"\n]+)\"?$", block, re.MULTILINE))
        settings = load({}, {**common, **own}, None)
        assert settings.warnings == []
        node = node_config(settings)
        assert (node.node_id, node.advertised_raft_address, len(node.seeds)) == (number, f"node{number}:9093", 3)
        assert f'"{node.kafka_port}:{node.kafka_port}", "{node.admin_port}:{node.admin_port}"' in block
        ports |= {node.kafka_port, node.admin_port}
    assert len(ports) == 6


def test_the_unit_does_not_restart_what_can_not_succeed():
    unit = (ROOT / "deploy" / "chronik.service").read_text()
    assert f"RestartPreventExitStatus={Exit.USAGE:d} {Exit.DATA_DIRECTORY:d} {Exit.DAMAGE:d}\n" in unit
    assert "Type=notify" in unit
