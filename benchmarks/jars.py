"""The jars of Apache Kafka, copied by the ordinary `mvn` into `.venv/benchmarks`; never part of the repository."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from benchmarks.processes import ROOT

VERSION = "4.3.0"
JARS = ROOT / ".venv" / "benchmarks" / f"kafka-{VERSION}"
POM = Path(__file__).parent / "pom.xml"


def missing() -> str:
    """Why Apache Kafka can not run here; "" when it can."""
    if shutil.which("java") is None:
        return "there is no `java` on the PATH"
    if not JARS.is_dir() and shutil.which("mvn") is None:
        return "there is no `mvn` on the PATH to fetch its jars with"
    return ""


def fetch() -> None:
    """The jars, if they are not here yet. They come into a directory beside and are renamed, so that half a set is never taken for a whole one."""
    if JARS.is_dir():
        return
    beside = JARS.with_name(JARS.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    command = ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={beside}"]
    subprocess.run(command, check=True)
    beside.rename(JARS)


def java(main_class: str, *arguments: str, options: tuple[str, ...] = ()) -> list[str]:
    """The command line of a class in the jars."""
    return ["java", *options, "-cp", f"{JARS}/*", main_class, *arguments]
