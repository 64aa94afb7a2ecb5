"""`python -m tests.conformance.kafka_python [--nodes 1|3] [pytest arguments]`: kafka-python's own integration suite against our broker.

The suite is in the source distribution of the version that is installed; it is fetched from the package registry into `.venv/conformance`. Two files
are missing there, `test/__init__.py` and `test/service.py`: the second gives the classes with which the suite starts a broker, or says that one runs
already. Exit status 0 when every test that fails is one of `OPEN`; one of `OPEN` that passes is told.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from importlib.metadata import version
from pathlib import Path

from tests.processes import ROOT, ProcessCluster

CACHE = ROOT / ".venv" / "conformance"
KAFKA_VERSION = "4.3"
BROKER_SETTINGS = {
    "CHRONIK_KAFKA__NUM_PARTITIONS": "4",
    "CHRONIK_KAFKA__GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
}
OPEN = {
    "test_create_describe_delete_acls": "ACLs are not served yet",
    "test_create_partitions": "assigns replicas to a broker 0; our ids begin with 1",
}
"""Tests that may fail, by name, with the reason."""
OPEN_WITH_MANY_NODES = {
    "test_delete_records": "expects one poll to bring the records of all partitions, which needs a single broker",
}
NOT_ELIGIBLE = {
    "test/integration/test_ssl_integration.py": "starts a Kafka of its own with certificates",
    "test/integration/test_sasl_integration.py": "skips itself when the broker runs already",
}

SERVICE = '''"""The broker that runs already."""


class ExternalService:
    def __init__(self, host, port):
        self.host = host
        self.port = port

    def open(self):
        pass

    def close(self):
        pass


class SpawnedService:
    def __init__(self, args=None, env=None):
        raise RuntimeError("this suite runs against a broker that was started before")
'''


def fetch() -> Path:
    """The unpacked source distribution, with the two missing files."""
    number = version("kafka-python")
    folder = CACHE / f"kafka_python-{number}"
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as directory:
            command = ["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-binary", ":all:", "--dest", directory]
            subprocess.run([sys.executable, "-m", "pip", *command, f"kafka-python=={number}"], check=True)
            (archive,) = Path(directory).glob("*.tar.gz")
            with tarfile.open(archive) as tar:
                tar.extractall(directory, filter="data")
            (unpacked,) = (path for path in Path(directory).iterdir() if path.is_dir())
            unpacked.rename(folder)
    (folder / "test" / "__init__.py").touch()
    (folder / "test" / "service.py").write_text(SERVICE)
    return folder


def run_suite(folder: Path, uri: str, report: Path, arguments: list[str]) -> int:
    environment = {**os.environ, "KAFKA_URI": uri, "KAFKA_VERSION": KAFKA_VERSION, "KAFKA_ROOT": str(folder), "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "log_level=WARNING", "-o", "addopts=", "--timeout=300", "-q"]
    for path, reason in NOT_ELIGIBLE.items():
        print(f"not eligible: {path}: {reason}")
        command.append(f"--ignore={path}")
    return subprocess.run(
        [*command, "-p", "no:logging", f"--junitxml={report}", *(arguments or ["test/integration"])], cwd=folder, env=environment, check=False
    ).returncode


def judge(report: Path, may_fail: dict[str, str]) -> int:
    """Print the outcome by name; 0 when nothing failed but what `may_fail`, by name with the reason."""
    outcomes: dict[str, tuple[str, str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        bad = next((found for kind in ("failure", "error") if (found := case.find(kind)) is not None), None)
        skipped = case.find("skipped")
        if bad is not None:
            outcomes[name] = ("failed", (bad.get("message") or "").splitlines()[0][:200] if bad.get("message") else bad.tag)
        elif skipped is not None:
            outcomes[name] = ("skipped", skipped.get("message") or "")
        else:
            outcomes[name] = ("passed", "")

    def reason(name: str) -> str:
        return next((text for test, text in may_fail.items() if name.partition("::")[2] == test), "")

    failed = {name: text for name, (kind, text) in outcomes.items() if kind == "failed"}
    passed = [name for name, (kind, _) in outcomes.items() if kind == "passed"]
    skipped_names = {name: text for name, (kind, text) in outcomes.items() if kind == "skipped"}
    print(f"\n{len(passed)} passed, {len(failed)} failed, {len(skipped_names)} skipped")
    for name, text in failed.items():
        print(f"  FAILED  {name}: {reason(name) or text}{' (open)' if reason(name) else ''}")
    for name, text in skipped_names.items():
        print(f"  skipped {name}: {text}")
    for name in passed:
        if reason(name):
            print(f"  passes, and is listed as open: {name}")
    return int(any(not reason(name) for name in failed) or not passed)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.kafka_python", description="Run kafka-python's integration suite.")
    parser.add_argument("--nodes", type=int, default=1, help="nodes of our cluster (default 1)")
    options, arguments = parser.parse_known_args()
    folder = fetch()
    with tempfile.TemporaryDirectory(prefix="conformance-") as directory:
        report = Path(directory) / "report.xml"
        with ProcessCluster(Path(directory) / "cluster", options.nodes, BROKER_SETTINGS) as cluster:
            if run_suite(folder, f"kafka://127.0.0.1:{cluster.nodes[1].kafka}", report, arguments):
                print(cluster.log_tails())
            surprises = cluster.surprises()
        result = judge(report, OPEN | (OPEN_WITH_MANY_NODES if options.nodes > 1 else {}))
    for line in surprises:
        print(f"  in the log of {line}")
    return result or int(bool(surprises))


if __name__ == "__main__":
    sys.exit(main())
