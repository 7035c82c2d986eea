"""How Sphinx makes web pages from docs/*.md and from the docstrings: `make docs`, then build/docs/index.html."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import re
from typing import Any

project = "SluiceMQ"
author = "The SluiceMQ developers"
copyright = "2026, The SluiceMQ developers"  # noqa: A001 Sphinx wants this name
release = importlib.metadata.version("sluicemq")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["README.md"]
nitpicky = False

html_theme = "furo"
html_title = "SluiceMQ"
html_show_sourcelink = False

# Links to headings are written as GitHub makes them, so that the same files can be read there.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True, "exclude-members": "__new__, __init__"}
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Raises while iterating", "Raises")]
# Docstrings are written as Markdown-like text: `name` in single backticks is code, not a role.
default_role = "code"


def _public_names(module_name: str) -> str:
    """Return the directives that document what a module offers: classes with all members, and functions."""
    module = importlib.import_module(module_name)
    lines = []
    for name in sorted(dir(module), key=str.lower):
        value = getattr(module, name)
        if (
            name.startswith("_")
            or inspect.ismodule(value)
            or not (inspect.isclass(value) or inspect.isfunction(value))
            or not value.__module__.startswith("sluicemq")
            # What another page of the client shows already.
            or (value.__module__.startswith("sluicemq.client.") and not value.__module__.startswith(module_name))
        ):
            continue
        kind = "autoclass" if inspect.isclass(value) else "autofunction"
        lines += [f".. {kind}:: {module_name}.{name}"]
        lines += ["   :inherited-members: Exception, dict"] if kind == "autoclass" else []
        lines += [""]
    return "\n".join(lines)


def _complete(_app: Any, _document: str, source: list[str]) -> None:
    """Let links to files beside docs/ lead to the pages that include them, and list what modules offer."""
    text = source[0].replace("](../ARCHITECTURE.md)", "](architecture.md)")
    source[0] = re.sub(r"@everything in ([\w.]+)@", lambda found: _public_names(found[1]), text)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _complete)
