"""Maps the folders at the root of the checkout to the namespace `sluicemq`.

pyproject.toml can look for packages below one root only, and we have several; so this file computes what it cannot
say. It must hold nothing else. Every folder below a root that contains a Python file is a package: a new one cannot be
forgotten. `sluicemq` itself is a namespace without an `__init__`, so that no part has to be imported for another.
"""

from pathlib import Path

from setuptools import setup

ROOTS = ("wire", "storage", "broker", "client", "examples")


def packages_of(root: str) -> list[str]:
    """Return the dotted names, namespace first, of all folders in and below `root` that hold Python files."""
    folders = {module.parent for module in Path(root).rglob("*.py")}
    return sorted(".".join(("sluicemq", *folder.parts)) for folder in folders)


setup(
    packages=[package for root in ROOTS for package in packages_of(root)],
    package_dir={f"sluicemq.{root}": root for root in ROOTS},
)
