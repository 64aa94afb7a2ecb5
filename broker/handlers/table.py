"""`python -m broker.handlers.table [--check]`: write docs/kafka-apis.md from the handlers, or say whether it is up to date (exit status 1).

Owns the reasons why a key is not served. A key is in the first table exactly when a handler for it is registered;
settings come from their definitions.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from types import ModuleType

from broker.handlers.registry import HANDLERS
from broker.protocol.api_keys import APIS
from broker.settings import BROKER_SETTINGS, TOPIC_SETTINGS, SettingDefinition

FILE = Path(__file__).resolve().parents[2] / "docs" / "kafka-apis.md"

_INTERNAL = "between Kafka's own nodes; ours talk Raft over gRPC"
_SECURITY = "security comes later; until it does, everybody may do everything"
_TELEMETRY = "clients start pushing metrics as soon as they see it"
_NEXT_GROUPS = "the new group protocol (KIP-848) comes later; clients use the classic one"
_SHARE = "share groups (KIP-932) come later"
_STREAMS = "the streams group protocol (KIP-1071) comes later; Streams uses the classic one"

_HISTORY = re.compile(r"\. (?=v\d)")
"""What each version added follows the first sentence."""

REASONS: dict[int, str] = {
    **dict.fromkeys((17, 29, 30, 31, 36, 38, 39, 40, 41, 48, 49, 50, 51), _SECURITY),
    **dict.fromkeys((4, 5, 6, 7, 52, 53, 54, 56, 58, 59, 62, 63, 67, 70, 73, 82, 83, 84, 85, 86, 87), _INTERNAL),
    **dict.fromkeys((71, 72), _TELEMETRY),
    **dict.fromkeys((68, 69), _NEXT_GROUPS),
    **dict.fromkeys((76, 77, 78, 79, 90, 91, 92), _SHARE),
    **dict.fromkeys((88, 89), _STREAMS),
    57: "there is one level of features; ApiVersions tells it",
    80: "voters of the metadata are chosen among the registered brokers by themselves",
    81: "voters of the metadata are chosen among the registered brokers by themselves",
    93: "a client's key with a meaning that is still new",
}


def render() -> str:
    """The whole text of the page."""
    served = {module.KEY: module for module in HANDLERS}
    lines = [
        "# Kafka APIs",
        "",
        "Written by `python -m broker.handlers.table` from the handlers and the definitions of the settings: do not edit.",
        "ApiVersions advertises exactly the first table. How each API behaves stands at the head of its file in `broker/handlers/`. Produce is",
        "advertised from version 0, because librdkafka needs it (KAFKA-18659); its versions 0-2 are refused.",
        "The highest versions are those of Apache Kafka 4.3.0; InitProducerId 6 (two-phase commit) is unstable there and not advertised by default,",
        "ApiVersions 5 (KIP-1242) came after it.",
        "",
        "## Served",
        "| key | API | versions | flexible from | what it does |",
        "|---|---|---|---|---|",
        *(_served_row(key, served[key]) for key in sorted(served)),
        "",
        "## Not served",
        "| key | API | reason |",
        "|---|---|---|",
        *(f"| {key} | {APIS[key].name} | {REASONS.get(key, _INTERNAL)} |" for key in sorted(APIS) if key not in served),
        "",
        "## Settings of topics",
        "All of Kafka's settings are accepted, checked, stored and described. "
        "One that does not act yet says so here, and once in the log when it is set.",
        "",
        *_settings(TOPIC_SETTINGS),
        "",
        "## Settings of brokers",
        "`read-only` settings are changed in the configuration file and act from the next start. The others can be changed while the cluster runs,",
        "for one broker or for all (`kafka-configs --entity-type brokers`): they act at once, as defaults of topics and on new connections.",
        "",
        *_settings(BROKER_SETTINGS),
        "",
    ]
    return "\n".join(lines)


def _served_row(key: int, module: ModuleType) -> str:
    info = APIS[key]
    first, last = module.VERSIONS
    flexible = str(info.first_flexible_version) if info.first_flexible_version <= info.last_version else "never"
    return f"| {key} | {info.name} | {first}-{last} | {flexible} | {_summary(module)} |"


def _summary(module: ModuleType) -> str:
    """What the first sentence of the module says behind its colon."""
    head = " ".join((module.__doc__ or "").split("\n\n")[0].split())
    _, colon, rest = head.partition(":")
    text = _HISTORY.split(rest.strip() if colon else head)[0]
    return text.rstrip(".").replace("|", "\\|")


def _settings(definitions: dict[str, SettingDefinition]) -> list[str]:
    lines = ["| setting | type | default | change | acts | description |", "|---|---|---|---|---|---|"]
    for name in sorted(definitions):
        one = definitions[name]
        change = "read-only" if one.read_only else "while running"
        default = "unset" if one.default is None else f"`{one.default}`" if one.default else "empty"
        lines.append(f"| `{name}` | {one.type.name.lower()} | {default} | {change} | {'yes' if one.acts else 'no'} | {one.doc} |")
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m broker.handlers.table", description="Write the table of Kafka APIs.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the page is not what would be written")
    parser.add_argument("--output", type=Path, default=FILE, help="file to write")
    options = parser.parse_args(arguments)
    text, path = render(), options.output
    present = path.read_text("utf-8") if path.exists() else ""
    if options.check:
        if present != text:
            print(f"{path} is not up to date; run python -m broker.handlers.table", file=sys.stderr)
        return int(present != text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    print(f"{path}: {'unchanged' if present == text else 'written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
