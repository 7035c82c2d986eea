"""Writes the calls of the blocking client from the signatures and docstrings of the async one.

What a call does is the same on both faces, so nobody writes it twice: each async method of `Client` and its bases that
returns a plain value becomes a method that lets the I/O thread run it. What returns something with a face of its own
(a producer, a message, an iterator) is written by hand in `client/blocking/client.py`.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

from sluicemq.client.client import Client

CHECKOUT = Path(__file__).resolve().parents[3]
FOLDER = CHECKOUT / "client" / "blocking" / "calls"
BY_HAND = CHECKOUT / "client" / "blocking" / "client.py"
NOTICE = "Made by a test from `{module}`, see `tests/client/blocking/facade.py`; do not edit."


def modules() -> dict[str, str]:
    """Return the text of every module of the package: file name -> text."""
    written = {}
    bases = []
    for kind in Client.__mro__:
        if kind.__module__.startswith("sluicemq.client.") and kind.__name__ != "Asking":
            stem = kind.__module__.rpartition(".")[2]
            name = "QueueCalls" if kind is Client else kind.__name__
            methods = methods_of(kind)
            if methods:
                written[f"{stem}.py"] = formatted(module_text(kind, name, methods))
                bases.append((stem, name))
    imports = "\n".join(f"from sluicemq.client.blocking.calls.{stem} import {name}" for stem, name in bases)
    listed = ", ".join(name for _, name in bases)
    written["__init__.py"] = formatted(
        f'"""Every call of the blocking client that returns a plain value.\n\n{NOTICE.format(module="client")}\n"""\n\n'
        f'{imports}\n\n\nclass Calls({listed}):\n    """All of them."""\n'
    )
    written["_base.py"] = formatted(
        '"""What every group of calls needs: the I/O thread, and the async client that lives there."""\n\n'
        "from __future__ import annotations\n\n"
        "from sluicemq.client.blocking.io_thread import IoThread\nfrom sluicemq.client.client import Client\n\n\n"
        'class Base:\n    """Base of every group of calls."""\n\n    _io: IoThread\n    _inner: Client\n'
    )
    return written


def methods_of(kind: type) -> list[ast.AsyncFunctionDef]:
    """Return the methods of *kind* that are to be written."""
    by_hand = {node.name for node in ast.walk(ast.parse(BY_HAND.read_text())) if isinstance(node, ast.FunctionDef)}
    tree = ast.parse(inspect.getsource(sys.modules[kind.__module__]))
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__)
    return [
        node
        for node in found.body
        if isinstance(node, ast.AsyncFunctionDef) and not node.name.startswith("_") and node.name not in by_hand
    ]


def module_text(kind: type, name: str, methods: list[ast.AsyncFunctionDef]) -> str:
    """Return one module, not formatted yet."""
    texts = [method_text(node) for node in methods]
    imports = imports_for(kind.__module__, methods)
    notice = NOTICE.format(module=kind.__module__)
    head = f'"""Calls that wait for their answer, as {kind.__name__} has them.\n\n{notice}\n"""'
    return (
        f"{head}\n\nfrom __future__ import annotations\n\n{imports}\n"
        "from sluicemq.client.blocking.calls._base import Base\n\n\n"
        f'class {name}(Base):\n    """These calls of the client."""\n\n' + "\n".join(texts)
    )


def method_text(node: ast.AsyncFunctionDef) -> str:
    """Return one method."""
    arguments = node.args
    passed = [argument.arg for argument in arguments.args[1:]]
    passed += [f"{argument.arg}={argument.arg}" for argument in arguments.kwonlyargs]
    if arguments.kwarg is not None:
        passed.append(f"**{arguments.kwarg.arg}")
    assert arguments.vararg is None
    assert node.returns is not None
    docstring = ast.get_docstring(node) or ""
    docstring = re.sub(r"\basync (?=with|for)", "", docstring)
    docstring = re.sub(r"\bawait (?=[a-z_]+[.(])", "", docstring)
    lines = [line and " " * 8 + line for line in docstring.splitlines()]
    several = len(lines) > 1
    quoted = '"""' + "\n".join(lines).lstrip() + ("\n" + " " * 8 if several else "") + '"""'
    call = ", ".join([f"self._inner.{node.name}", *passed])
    answer = "" if ast.unparse(node.returns) == "None" else "return "
    return (
        f"    def {node.name}({ast.unparse(arguments)}) -> {ast.unparse(node.returns)}:\n"
        f"        {quoted}\n        {answer}self._io.call({call})\n"
    )


def imports_for(module: str, methods: list[ast.AsyncFunctionDef]) -> str:
    """Return the imports of all names in the signatures."""
    wanted = set()
    for node in methods:
        parts: list[ast.AST] = [node.args, node.returns] if node.returns is not None else [node.args]
        for part in parts:
            wanted |= {name.id for name in ast.walk(part) if isinstance(name, ast.Name)}
    wanted -= set(dir(builtins))
    lines = []
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    for statement in ast.walk(tree):
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                if (alias.asname or alias.name) in wanted:
                    lines.append(f"from {statement.module} import {ast.unparse(alias)}")
                    wanted.discard(alias.asname or alias.name)
        elif isinstance(statement, ast.Import):
            for alias in statement.names:
                if (alias.asname or alias.name) in wanted:
                    lines.append(f"import {ast.unparse(alias)}")
                    wanted.discard(alias.asname or alias.name)
    lines += [f"from {module} import {name}" for name in sorted(wanted)]
    return "\n".join(lines)


def formatted(text: str) -> str:
    """Return *text* as `tools/check fix` leaves it."""
    for command in (["check", "--select", "I", "--fix", "--quiet"], ["format", "--quiet"]):
        arguments = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(FOLDER / "made.py"), "-"]
        text = subprocess.run(arguments, input=text, capture_output=True, text=True, cwd=CHECKOUT, check=True).stdout
    return text
