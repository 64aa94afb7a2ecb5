"""Programs with the three client libraries (tests/integration/programs), each with a kill -9 of the coordinator's node in its midst.

Nothing is lost, nothing is there twice. The libraries' programs of one capability run side by side; each cell of the matrix is a test of its own.
`python -m tests.integration.programs.run --quiet` runs the same without the kill.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from tests.integration.programs.repertoire import LIBRARIES, REPERTOIRE, libraries_of
from tests.integration.programs.scene import ENVIRONMENT, Stage
from tests.processes import ProcessCluster

NAMES = [library.name for library in LIBRARIES]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with ProcessCluster(tmp_path_factory.mktemp("programs"), environment=ENVIRONMENT) as running:
        yield Stage(running)
        assert running.surprises() == []


@pytest.fixture(scope="module")
def played() -> dict[str, Mapping[str, list[str]]]:
    """What was played already, with its problems by library."""
    return {}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("library", NAMES)
@pytest.mark.parametrize("act", REPERTOIRE)
def test_program_across_a_kill_of_the_coordinator(stage: Stage, played: dict[str, Mapping[str, list[str]]], act: str, library: str) -> None:
    (chosen,) = (one for one in LIBRARIES if one.name == library)
    if act in chosen.lacks:
        chosen.check_lacks()
        pytest.skip(f"{library}: {chosen.lacks[act]}")
    if act not in played:
        played[act] = stage.run(act, REPERTOIRE[act].program, libraries_of(act), True, REPERTOIRE[act].coordinators)
    assert played[act][library] == []
