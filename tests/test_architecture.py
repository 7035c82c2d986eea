"""The house rules that import-linter, ruff and mypy cannot express, checked on the source of every module.

Importing nothing of the product, so that a broken module breaks its own tests and not these.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
ROOTS = ("wire", "storage", "broker", "client")
LINES_PER_MODULE_MAX = 600
LINES_PER_TEST_MAX = 700

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
    "broker.server": {"broker.pipeline", "broker.queues", "broker.config", "wire"},
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


def part_of(dotted: str, parts: dict[str, set[str]]) -> str | None:
    """Return the one of `parts` that a name such as `broker.queues.machine` belongs to, or None."""
    return next((part for part in parts if dotted == part or dotted.startswith(part + ".")), None)


def dotted_name(module: Path) -> str:
    """Return the name of a module below the namespace, `broker.queues.machine` for broker/queues/machine.py."""
    return ".".join(module.with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("module", modules_of(*ROOTS), ids=str)
def test_a_module_imports_only_the_parts_that_its_own_part_may_know(module: Path) -> None:
    own_part = part_of(dotted_name(module), ALLOWED_PARTS)
    if own_part is None:
        return
    for imported in imports_of(tree_of(module)):
        if not imported.startswith("sluicemq."):
            continue
        name = imported.removeprefix("sluicemq.")
        part = part_of(name, ALLOWED_PARTS) or name
        assert part == own_part or part in ALLOWED_PARTS[own_part], f"{module} imports {imported}"


@pytest.mark.parametrize("module", modules_of(*ROOTS), ids=str)
def test_a_pure_part_cannot_reach_clock_chance_or_network(module: Path) -> None:
    own_part = part_of(dotted_name(module), FORBIDDEN_IN_PURE_PARTS)
    if own_part is None:
        return
    reached = {imported.partition(".")[0] for imported in imports_of(tree_of(module))}
    assert not reached & FORBIDDEN_IN_PURE_PARTS[own_part], f"{module} imports what {own_part} must do without"


@pytest.mark.parametrize("module", modules_of(*ROOTS, "examples", "tests", "bench"), ids=str)
def test_the_product_is_imported_by_its_full_name(module: Path) -> None:
    for imported in imports_of(tree_of(module)):
        assert not imported.startswith("."), f"{module} has a relative import: write sluicemq..."
        assert imported.partition(".")[0] not in (*ROOTS, "examples"), (
            f"{module} imports {imported} without `sluicemq.`"
        )


@pytest.mark.parametrize("module", modules_of(*ROOTS, "examples", "tests", "bench"), ids=str)
def test_every_module_opens_with_its_reason(module: Path) -> None:
    tree = tree_of(module)
    assert not tree.body or ast.get_docstring(tree), (
        f"{module} has no docstring: why does it exist, and what must it not know?"
    )


@pytest.mark.parametrize("module", modules_of(*ROOTS, "examples", "tests", "bench"), ids=str)
def test_no_file_grows_past_what_one_can_hold(module: Path) -> None:
    lines = (CHECKOUT / module).read_text(encoding="utf-8").count("\n")
    limit = LINES_PER_TEST_MAX if module.parts[0] == "tests" else LINES_PER_MODULE_MAX
    assert lines <= limit, f"{module} has {lines} lines; split it by concern"


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
