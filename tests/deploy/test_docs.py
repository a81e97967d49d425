"""What is written agrees with what is there: links, commands, settings, paths, vocabulary, metrics, log lines."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.app import create_app
from api.metrics import _HELP, ApiMetrics
from api.settings import ApiSettings
from deploy.cli import COMMANDS
from deploy.settings import CommonSettings
from devices.vocabulary import CODES, FLAG_NAMES, CommandType, DeviceModel, EventType, Reason
from gateway.ble.metrics import BleMetrics
from gateway.runtime.metrics import GatewayMetrics, WorkerMetrics
from streaming.episodes import Rule, Severity

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
DECISIONS = sorted((ROOT / "docs" / "adr").glob("*.md"))


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def in_backticks(document: str) -> set[str]:
    """Every word or phrase that a document sets as code."""
    return set(re.findall(r"`([^`\n]+)`", document))


def anchors(document: str) -> set[str]:
    """The names by which headings can be linked to."""
    prose = re.sub(r"^```.*?^```", "", document, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        found = (document.parent / name).resolve() if name else document
        assert found.is_file(), target
        assert not anchor or anchor in anchors(found.read_text(encoding="utf-8")), target


def test_the_readme_lists_the_commands_as_the_help_does() -> None:
    rows = re.findall(r"^\| `vigil ([a-z]+)` \| (.+) \|$", text("README.md"), flags=re.MULTILINE)
    assert rows == [(name, command.summary) for name, command in COMMANDS.items()]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_contract_names_every_command(name: str) -> None:
    commands = text("docs/contract.md").partition("\n## Commands\n")[2]
    assert re.search(rf"`vigil ([a-z]+ \\\| )*{name}\b", commands)


def settings_classes(base: type[CommonSettings]) -> Iterator[type[CommonSettings]]:
    yield base
    for kind in base.__subclasses__():
        yield from settings_classes(kind)


def test_every_setting_is_described_and_every_described_one_exists() -> None:
    exist = {f"VIGIL_{name}".upper() for kind in settings_classes(CommonSettings) for name in kind.model_fields}
    rows = re.findall(r"^\| `(VIGIL_[A-Z_]+)` \|", text("docs/operations.md"), flags=re.MULTILINE)
    assert sorted(rows) == sorted(exist)


def test_the_contract_lists_the_paths_that_exist() -> None:
    app = create_app(ApiSettings("postgresql://nowhere", "k" * 32))
    exist = {
        f"{method.upper()} {path.removeprefix('/api/v1')}"
        for path, operations in app.openapi()["paths"].items()
        for method in operations
    }
    rows = re.findall(r"^\| `((?:GET|POST|PUT|PATCH|DELETE) [^`]+)` \|", text("docs/contract.md"), flags=re.MULTILINE)
    assert sorted(rows) == sorted(exist)


def test_the_contract_has_every_word_of_the_wire() -> None:
    words = in_backticks(text("docs/contract.md"))
    units = {unit.ucum for rule in CODES.values() for unit in rule.units}
    sent_to_devices = {CommandType.REMIND, CommandType.SET_CLOCK}
    expected = {
        *(code.wire for code in CODES),
        *units,
        *FLAG_NAMES.values(),
        *EventType,
        *DeviceModel,
        *Reason,
        *Severity,
        *sent_to_devices,
        *Rule,
    }
    assert expected <= words


def test_the_contract_has_every_loinc_code() -> None:
    for rule in CODES.values():
        for loinc in rule.loinc:
            assert loinc in text("docs/contract.md")


def test_every_rule_has_its_numbers_and_sources() -> None:
    clinical = text("docs/clinical.md")
    assert [rule for rule in Rule if f"Rule `{rule}`" not in clinical] == []


def test_every_metric_is_described() -> None:
    registries = (GatewayMetrics().registry, WorkerMetrics().registry, BleMetrics().registry, ApiMetrics().registry)
    families = [family for registry in registries for family in registry.collect()]
    names = {family.name + ("_total" if family.type == "counter" else "") for family in families} | set(_HELP)
    rows = re.findall(r"^\| (`vigil_[^|]+) \|", text("docs/operations.md"), flags=re.MULTILINE)
    assert {name for row in rows for name in in_backticks(row)} == names


def logged_events() -> Iterator[tuple[str, str]]:
    """Yield (event, file) of every line that a program may log."""
    for package in ("gateway", "api"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and isinstance(node.func.value, ast.Name)
                    and node.func.value.id == "log"
                    and node.func.attr != "debug"
                ):
                    literals = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
                    yield from ((event, str(path.relative_to(ROOT))) for event in literals[:1])


def test_every_log_line_is_explained() -> None:
    described = in_backticks(text("docs/operations.md").partition("\n## Logs\n")[2])
    assert [event for event in logged_events() if event[0] not in described] == []


def test_decisions_are_numbered_listed_and_complete() -> None:
    assert [int(path.name[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))
    architecture = text("docs/architecture.md")
    for path in DECISIONS:
        content = path.read_text(encoding="utf-8")
        assert f"[{path.name[:4]}](adr/{path.name})" in architecture
        assert content.startswith(f"# {int(path.name[:4])}. ")
        parts = ("Context", "Decision", "Consequences", "Alternatives")
        places = [content.find(f"\n**{part}") for part in parts]
        assert -1 not in places, path.name
        assert places == sorted(places)


def test_the_glossary_is_short_and_says_each_word_in_one_sentence() -> None:
    rows = re.findall(r"^\| ([a-z, -]+) \| (.+) \|$", text("docs/glossary.md"), flags=re.MULTILINE)[1:]
    assert 30 <= len(rows) <= 40
    assert [word for word, _ in rows] == sorted(word for word, _ in rows)
    assert [word for word, sentence in rows if re.search(r"\. [A-Z]", sentence) or not sentence.endswith(".")] == []


def test_the_ways_through_the_house_are_short_and_lead_through_rooms_that_exist() -> None:
    tables = re.findall(
        r"^\| (?:a|an) ([^|]+) \| \|\n\|---\|---\|\n((?:\|.+\n)+)", text("docs/architecture.md"), re.MULTILINE
    )
    most = {"plain message": 12, "alert": 6, "dose": 8}
    for title, rows in tables:
        files = re.findall(r"`([\w/]+\.(?:py|sql))`", rows)
        folder = Path()
        for name in files:
            folder = Path(name).parent if "/" in name else folder
            assert (ROOT / folder / Path(name).name).is_file(), name
        assert len(files) <= next(count for words, count in most.items() if title.startswith(words))
    assert len(tables) == len(most)
