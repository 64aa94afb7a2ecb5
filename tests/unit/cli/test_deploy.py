"""What is shipped for deployment fits the program: the example file is valid, compose uses known variables and matching ports, the image has all."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from broker.config import NodeConfig
from cli.config import load, node_config
from cli.exits import Exit

ROOT = Path(__file__).resolve().parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
SUBSTITUTION = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def environment(service: str) -> dict[str, str]:
    """What compose hands to the node when nothing is set outside."""
    given = SERVICES[service]["environment"]
    assert all(isinstance(value, str) for value in given.values()), "a number or a boolean of YAML may be written in another way than it was meant"
    return {name: SUBSTITUTION.sub(lambda found: found[2] or "", value) for name, value in given.items()}


def configured(service: str) -> NodeConfig:
    settings = load({}, environment(service), None)
    assert settings.warnings == []
    return node_config(settings)


def test_the_example_file_is_valid() -> None:
    settings = load({}, {}, ROOT / "deploy" / "chronik.toml")
    node = node_config(settings)
    assert (node.cluster_enabled, node.node_id, len(node.seeds), node.advertised_raft_address) == (True, 1, 3, "node1:9093")
    assert settings.warnings == []


class TestCompose:
    def test_it_has_three_nodes(self) -> None:
        assert list(SERVICES) == ["node1", "node2", "node3"]
        for key in COMPOSE:
            assert key in ("name", "services", "volumes") or key.startswith("x-")

    @pytest.mark.parametrize("service", SERVICES)
    def test_every_variable_is_known_and_every_value_is_taken(self, service: str) -> None:
        settings = load({}, environment(service), None)
        assert settings.warnings == [] and settings.problems == []
        assert load({}, {**environment(service), "CHRONIK_NODE_IDD": "1"}, None).warnings, "the check above would not notice an unknown one"
        outside = {found[1] for value in SERVICES[service]["environment"].values() for found in SUBSTITUTION.finditer(value)}
        assert load({}, {**dict.fromkeys(outside, "info"), "CHRONIK_WAL_PROFILE": "low"}, None).warnings == [], (
            "what may be set outside has known names too"
        )

    @pytest.mark.parametrize("service", SERVICES)
    def test_a_nodes_ports_are_published_as_they_are_told_to_clients(self, service: str) -> None:
        node = configured(service)
        published = sorted(tuple(map(int, port.split(":"))) for port in SERVICES[service]["ports"])
        assert published == sorted((port, port) for port in (node.kafka_port, node.admin_port))
        assert node.advertised_host == "localhost"

    def test_published_ports_are_distinct(self) -> None:
        published = [port.split(":")[0] for service in SERVICES.values() for port in service["ports"]]
        assert len(published) == len(set(published)) == 6

    def test_the_seeds_are_the_nodes(self) -> None:
        for service in SERVICES:
            node = configured(service)
            assert node.cluster_enabled and node.advertised_raft_address == f"{service}:9093"
            assert {seed.node_id: seed.address for seed in node.seeds} == {n: f"node{n}:9093" for n in (1, 2, 3)}
        assert [configured(service).node_id for service in SERVICES] == [1, 2, 3]

    @pytest.mark.parametrize("service", SERVICES)
    def test_the_data_lies_in_a_volume_of_its_own(self, service: str) -> None:
        ((name, place),) = [volume.split(":") for volume in SERVICES[service]["volumes"]]
        assert name in COMPOSE["volumes"] and name == service
        assert PurePosixPath(configured(service).data_dir).is_relative_to(place)

    @pytest.mark.parametrize("service", SERVICES)
    def test_the_image_is_built_from_here_and_knows_when_it_is_healthy(self, service: str) -> None:
        build = SERVICES[service]["build"]
        assert (ROOT / build["context"] / build["dockerfile"]).is_file()
        check = re.search(r"^HEALTHCHECK .*", DOCKERFILE, re.MULTILINE | re.DOTALL)
        assert check is not None and "/health/ready" in check[0]
        assert "CHRONIK_ADMIN_PORT" in check[0] and "CHRONIK_ADMIN_PORT" in environment(service)

    def test_the_engine_takes_it(self) -> None:
        if shutil.which("docker") is None or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
            pytest.skip("docker compose is not installed")
        done = subprocess.run(["docker", "compose", "config", "-q"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


class TestImage:
    def copied(self) -> Iterator[str]:
        """What the first stage takes from the repository."""
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
            yield from line.split()[:-1]

    def test_everything_that_is_copied_exists_and_is_in_the_context(self) -> None:
        patterns = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().split()
        for path in self.copied():
            assert (ROOT / path).exists(), f"COPY {path}: there is nothing of that name"
            assert f"!{path}" in patterns, f"{path} is kept out of the context"
        for pattern in patterns:
            assert not pattern.startswith("!") or (ROOT / pattern[1:]).exists(), f"{pattern} names nothing"

    def test_every_package_is_in_the_image(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        wanted = project["tool"]["setuptools"]["packages"]["find"]["include"]
        packages = {path.parent.name for path in ROOT.glob("*/__init__.py") if any(fnmatch.fnmatch(path.parent.name, one) for one in wanted)}
        assert packages <= set(self.copied()) and "cli" in packages
        assert project["project"]["readme"] in set(self.copied())

    def test_it_starts_a_program_that_there_is(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        entry = re.search(r'^ENTRYPOINT \["(.+)"\]$', DOCKERFILE, re.MULTILINE)
        assert entry is not None and entry[1] in project["project"]["scripts"]


def test_the_unit_does_not_restart_what_can_not_succeed() -> None:
    unit = (ROOT / "deploy" / "chronik.service").read_text()
    assert f"RestartPreventExitStatus={Exit.USAGE:d} {Exit.DATA_DIRECTORY:d} {Exit.DAMAGE:d}\n" in unit
    assert "Type=notify" in unit
