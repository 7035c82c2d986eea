"""Writes the calls of the blocking client from the signatures and docstrings of the async one.

What a call does is the same on both faces, so nobody writes it twice: each public method of `Client` and its bases
becomes one that lets the I/O thread run it, and gives what it returns a face for threads where it has one (`FACES`).
Only what `client/blocking/client.py` has is written by hand: the life of a client, and sends, which must be fast.
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
FACES = {
    "Consumer": "consumer",
    "Half": "transaction",
    "PendingReply": "requesting",
    "Producer": "producer",
    "Replay": "reading",
    "Transaction": "transaction",
}
"""What is returned with a face for threads -> the module of `client.blocking` that has it."""
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
    notice = NOTICE.format(module="client")
    written["__init__.py"] = formatted(
        f'"""Every call of the blocking client that is not written by hand.\n\n{notice}\n"""\n\n'
        f'{imports}\n\n\nclass Calls({listed}):\n    """All of them."""\n'
    )
    written["_base.py"] = formatted(
        '"""What every group of calls needs: the I/O thread, and the async client that lives there."""\n\n'
        "from __future__ import annotations\n\n"
        "from sluicemq.client.blocking.io_thread import IoThread\nfrom sluicemq.client.client import Client\n\n\n"
        'class Base:\n    """Base of every group of calls."""\n\n    _io: IoThread\n    _inner: Client\n'
    )
    return written


Method = ast.AsyncFunctionDef | ast.FunctionDef


def methods_of(kind: type) -> list[Method]:
    """Return the methods of *kind* that are to be written."""
    by_hand = {node.name for node in ast.walk(ast.parse(BY_HAND.read_text())) if isinstance(node, ast.FunctionDef)}
    tree = ast.parse(inspect.getsource(sys.modules[kind.__module__]))
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__)
    return [
        node
        for node in found.body
        if isinstance(node, Method) and not node.name.startswith("_") and node.name not in by_hand
    ]


def module_text(kind: type, name: str, methods: list[Method]) -> str:
    """Return one module, not formatted yet."""
    texts = [method_text(node) for node in methods]
    imports = imports_for(kind.__module__, methods)
    notice = NOTICE.format(module=kind.__module__)
    head = f'"""Calls as {kind.__name__} has them.\n\n{notice}\n"""'
    return (
        f"{head}\n\nfrom __future__ import annotations\n\n{imports}\n"
        "from sluicemq.client.blocking.calls._base import Base\n\n\n"
        f'class {name}(Base):\n    """These calls of the client."""\n\n' + "\n".join(texts)
    )


def method_text(node: Method) -> str:
    """Return one method."""
    arguments = node.args
    passed = [argument.arg for argument in arguments.args[1:]]
    passed += [f"{argument.arg}={argument.arg}" for argument in arguments.kwonlyargs]
    if arguments.kwarg is not None:
        passed.append(f"**{arguments.kwarg.arg}")
    assert arguments.vararg is None
    docstring = ast.get_docstring(node) or ""
    docstring = re.sub(r"\basync (?=with|for)", "", docstring)
    docstring = re.sub(r"\bawait (?=[a-z_]+[.(])", "", docstring)
    lines = [line and " " * 8 + line for line in docstring.splitlines()]
    several = len(lines) > 1
    quoted = '"""' + "\n".join(lines).lstrip() + ("\n" + " " * 8 if several else "") + '"""'
    returned, body = answer_of(node, passed)
    return f"    def {node.name}({ast.unparse(arguments)}) -> {returned}:\n        {quoted}\n        {body}\n"


def answer_of(node: Method, passed: list[str]) -> tuple[str, str]:
    """Return the annotation of what the method returns, and the statement that returns it."""
    assert node.returns is not None
    returned = ast.unparse(node.returns)
    called = f"self._inner.{node.name}"
    if is_generator(node):
        return returned.replace(
            "AsyncIterator", "Iterator"
        ), f"return Listing(self._io, lambda: {called}({', '.join(passed)}))"
    how = "call" if isinstance(node, ast.AsyncFunctionDef) else "run"
    answer = f"self._io.{how}({', '.join([called, *passed])})"
    if returned in FACES:
        return returned, f"return {returned}(self._io, {answer})"
    return returned, answer if returned == "None" else f"return {answer}"


def is_generator(node: Method) -> bool:
    """Whether calling it makes an async iterator."""
    return any(isinstance(part, ast.Yield) for part in ast.walk(node))


def imports_for(module: str, methods: list[Method]) -> str:
    """Return the imports of all names in the signatures."""
    wanted = set()
    for node in methods:
        parts: list[ast.AST] = [node.args, node.returns] if node.returns is not None else [node.args]
        for part in parts:
            wanted |= {name.id for name in ast.walk(part) if isinstance(name, ast.Name)}
    wanted -= set(dir(builtins))
    lines = [f"from sluicemq.client.blocking.{FACES[name]} import {name}" for name in sorted(wanted & set(FACES))]
    if any(is_generator(node) for node in methods):
        lines += ["from collections.abc import Iterator", "from sluicemq.client.blocking.reading import Listing"]
    wanted -= {*FACES, "AsyncIterator"}
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
