"""The house rules that import-linter, ruff and mypy cannot express, checked on the source of every module.

Importing nothing of the product, so that a broken module breaks its own tests and not these.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
ROOTS = ("wire", "storage", "broker", "client")
USERS = ("examples", "tests", "bench")
BARE_NAMES = {*ROOTS, "examples"}
LINES_PER_MODULE_MAX = 600
LINES_PER_TEST_MAX = 800

# Which parts the modules of a part may import, beside their own. Parts that are not listed (the command line, the node,
# the examples) put the others together and may import all of them.
ALLOWED_PARTS = {
    "wire": set(),
    "storage": set(),
    "client": {"wire"},
    "broker.queues": {"wire"},
    "broker.replication": {"wire"},
    "broker.pipeline": {"broker.queues", "broker.replication", "storage", "wire"},
    # Outcomes of the queue machine pass through the pipeline as they are, so the server knows their types.
    # Nor does it look into the messages of the replication core, which it carries between brokers.
    "broker.server": {"broker.pipeline", "broker.queues", "broker.replication", "broker.config", "wire"},
    "broker.config": {"wire"},
}

IMPURE = {
    *("anyio", "asyncio", "selectors", "socket", "threading", "trio"),
    *("datetime", "os", "random", "secrets", "time", "uuid"),
}
# The same input gives the same state on every broker: what could differ between two of them cannot even be imported.
FORBIDDEN_IN_PURE_PARTS = {
    "wire": {"anyio", "asyncio", "os", "selectors", "socket", "threading", "trio"},
    "storage": {"anyio", "asyncio", "random", "secrets", "socket", "time", "trio", "uuid"},
    "broker.queues": IMPURE,
    "broker.replication": IMPURE,
}


def modules_of(*folders: str) -> list[Path]:
    """Return every Python file below the folders of the checkout, as paths relative to it."""
    found = (path for folder in folders for path in (CHECKOUT / folder).rglob("*.py"))
    return sorted(path.relative_to(CHECKOUT) for path in found)


def tree_of(module: Path) -> ast.Module:
    """Parse a module of the checkout."""
    return ast.parse((CHECKOUT / module).read_text(encoding="utf-8"), filename=str(module))


def imports_of(tree: ast.Module) -> Iterator[str]:
    """Yield the dotted name of every import, wherever in the module it stands; relative ones start with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            # `from sluicemq.broker import queues` imports a part as well as `import sluicemq.broker.queues` does.
            yield from (f"{base}.{alias.name}" if base.startswith("sluicemq") else base for alias in node.names)


def part_of(name: str, parts: Iterable[str]) -> str | None:
    """Return the one of `parts` that a name such as `broker.queues.machine` belongs to, or None."""
    return next((part for part in parts if name == part or name.startswith(part + ".")), None)


def dotted_name(module: Path) -> str:
    """Return the name of a module below the namespace, `broker.queues.machine` for broker/queues/machine.py."""
    return ".".join(module.with_suffix("").parts).removesuffix(".__init__")


def parts_that_must_stay_unknown(name: str, tree: ast.Module) -> list[str]:
    """Return the imports of the product that the module called `name` must do without."""
    own_part = part_of(name, ALLOWED_PARTS)
    if own_part is None:
        return []
    allowed = {own_part} | ALLOWED_PARTS[own_part]
    imported = [found for found in imports_of(tree) if found.startswith("sluicemq.")]
    return [found for found in imported if part_of(found.removeprefix("sluicemq."), ALLOWED_PARTS) not in allowed]


def sources_of_difference(name: str, tree: ast.Module) -> list[str]:
    """Return the imports of the module called `name` that a pure part must do without."""
    own_part = part_of(name, FORBIDDEN_IN_PURE_PARTS)
    if own_part is None:
        return []
    return [found for found in imports_of(tree) if found.partition(".")[0] in FORBIDDEN_IN_PURE_PARTS[own_part]]


def imports_without_the_namespace(name: str, tree: ast.Module) -> list[str]:
    """Return the relative imports of a module and those of a root folder by its bare name."""
    return [found for found in imports_of(tree) if found.startswith(".") or found.partition(".")[0] in BARE_NAMES]


def found_in(modules: list[Path], look_for: Callable[[str, ast.Module], list[str]]) -> list[str]:
    """Look for what must not be in each of the modules; return what was found as lines to read."""
    assert modules, "there is nothing to check"
    return [f"{module}: {what}" for module in modules for what in look_for(dotted_name(module), tree_of(module))]


def test_a_module_imports_only_the_parts_that_its_own_part_may_know() -> None:
    assert found_in(modules_of(*ROOTS), parts_that_must_stay_unknown) == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("wire.frames", "from sluicemq.storage import SegmentLog"),
        ("storage.log", "import sluicemq.wire.frames"),
        ("client.producer", "from sluicemq import broker"),
        ("broker.queues.machine", "from sluicemq.broker.pipeline.road import Road"),
        ("broker.replication.election", "from sluicemq.broker.queues import machine"),
        ("broker.pipeline.apply", "from sluicemq.broker import server"),
        ("broker.server.listener", "def late():\n    from sluicemq.storage.log import SegmentLog"),
    ],
)
def test_an_import_across_the_house_would_be_found(name: str, line: str) -> None:
    assert parts_that_must_stay_unknown(name, ast.parse(line)) != []


def test_a_pure_part_cannot_reach_clock_chance_or_network() -> None:
    assert found_in(modules_of(*ROOTS), sources_of_difference) == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("wire.batch", "import os.path"),
        ("storage.recovery", "from time import monotonic"),
        ("broker.queues.machine", "import random"),
        ("broker.replication.broadcast", "import trio"),
    ],
)
def test_an_import_of_clock_chance_or_network_would_be_found(name: str, line: str) -> None:
    assert sources_of_difference(name, ast.parse(line)) != []


def test_the_product_is_imported_by_its_full_name() -> None:
    assert found_in(modules_of(*ROOTS, *USERS), imports_without_the_namespace) == []


@pytest.mark.parametrize(
    "line", ["import wire.frames", "from broker import cli", "from . import frames", "from .x import y"]
)
def test_an_import_without_the_namespace_would_be_found(line: str) -> None:
    assert imports_without_the_namespace("wire.messages", ast.parse(line)) != []


def test_every_module_opens_with_its_reason() -> None:
    silent = [str(module) for module in modules_of(*ROOTS, *USERS) if not ast.get_docstring(tree_of(module))]
    assert silent == [], "why do they exist, and what must they not know?"


def test_no_file_grows_past_what_one_can_hold() -> None:
    lines_of = {
        module: (CHECKOUT / module).read_text(encoding="utf-8").count("\n") for module in modules_of(*ROOTS, *USERS)
    }
    limit_of = {
        module: LINES_PER_TEST_MAX if module.parts[0] == "tests" else LINES_PER_MODULE_MAX for module in lines_of
    }
    assert {str(module): lines for module, lines in lines_of.items() if lines > limit_of[module]} == {}, (
        "split by concern"
    )


@pytest.mark.parametrize("root", ROOTS)
def test_a_root_folder_refuses_to_be_imported_without_the_namespace(root: str) -> None:
    program = f"import sys; sys.path.insert(0, '.'); import {root}"
    outcome = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert outcome.returncode != 0, f"`import {root}` from the checkout makes every class a second time"
    last_line = outcome.stderr.strip().splitlines()[-1]
    assert last_line.startswith("ImportError"), outcome.stderr
    assert f"sluicemq.{root}" in last_line, "the message has to name the right import"


def test_the_namespace_itself_holds_no_code() -> None:
    assert not (CHECKOUT / "__init__.py").exists()
    assert not (CHECKOUT / "sluicemq").exists()
    assert not (Path(sysconfig.get_paths()["purelib"]) / "sluicemq" / "__init__.py").exists()
