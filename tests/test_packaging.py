"""What a user gets from `pip install`: every module and nothing else, typed, licensed, and light for clients.

The package is built the way an index would get it: a source distribution from a copy of the checkout, the wheel from
that. So a file that either of the two forgets is missed here. Nothing is downloaded.
"""

from __future__ import annotations

import configparser
import email
import email.message
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
ROOTS = ("wire", "storage", "broker", "client", "examples")
TYPED_ROOTS = ("wire", "storage", "broker", "client")

# What the environment of somebody who only uses the client has to hold, with what these bring along.
CLIENT_NEEDS = ("anyio", "google_crc32c", "idna", "msgpack", "sniffio", "typing_extensions")


@dataclass(frozen=True)
class Package:
    """A wheel that was built from this checkout, and the same unpacked."""

    wheel: Path
    site: Path

    def names(self) -> set[str]:
        """Return the paths of all files in the wheel."""
        with zipfile.ZipFile(self.wheel) as archive:
            return set(archive.namelist())

    def text(self, name: str) -> str:
        """Return a file of the wheel's metadata, such as METADATA."""
        (path,) = self.site.glob(f"*.dist-info/{name}")
        return path.read_text(encoding="utf-8")

    def metadata(self) -> email.message.Message:
        """Return what an index shows of the package."""
        return email.message_from_string(self.text("METADATA"))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """Build the package once, in a copy, so that the checkout stays clean and nothing left in it is packed."""
    folder = tmp_path_factory.mktemp("package")
    copy = folder / "checkout"
    copy.mkdir()
    for root in ROOTS:
        shutil.copytree(CHECKOUT / root, copy / root, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "LICENSE", "README.md"):
        shutil.copy(CHECKOUT / name, copy / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(copy)]
    outcome = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout[-4000:] + outcome.stderr[-4000:]
    (wheel,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return Package(wheel, folder / "site")


def run_python(package: Package, program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program far from the checkout, with the unpacked wheel ahead of whatever else is installed."""
    environment = os.environ | {"PYTHONPATH": str(package.site)}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_wheel_holds_every_module_of_the_tree_and_no_other(package: Package) -> None:
    modules = (path for root in ROOTS for path in (CHECKOUT / root).rglob("*.py"))
    expected = {f"sluicemq/{path.relative_to(CHECKOUT).as_posix()}" for path in modules}
    expected |= {f"sluicemq/{root}/py.typed" for root in TYPED_ROOTS}
    packed = {name for name in package.names() if ".dist-info/" not in name}
    assert packed == expected


def test_the_licence_travels_with_the_wheel(package: Package) -> None:
    assert package.metadata()["License-Expression"] == "Apache-2.0"
    assert package.text("licenses/LICENSE") == (CHECKOUT / "LICENSE").read_text(encoding="utf-8")


def test_the_wheel_does_not_cap_its_dependencies(package: Package) -> None:
    required = package.metadata().get_all("Requires-Dist")
    assert required is not None
    for requirement in required:
        wanted = requirement.partition(";")[0]
        assert not re.search(r"<|==|~=", wanted), f"{requirement}: an upper bound breaks the environment of our users"


RUN_THE_COMMAND = """
import sys
from sluicemq.broker.cli import main
print(main.__code__.co_filename, flush=True)
sys.argv = ["sluicemq", "--help"]
sys.exit(main())
"""


def test_the_command_of_the_wheel_runs_anywhere(package: Package, tmp_path: Path) -> None:
    entry_points = configparser.ConfigParser()
    entry_points.read_string(package.text("entry_points.txt"))
    assert entry_points["console_scripts"]["sluicemq"] == "sluicemq.broker.cli:main"

    outcome = run_python(package, RUN_THE_COMMAND, tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    where, _, help_text = outcome.stdout.partition("\n")
    assert Path(where).is_relative_to(package.site), "the test has to run the wheel, not the checkout"
    assert "serve" in help_text


def test_the_examples_of_the_wheel_are_the_demo(package: Package, tmp_path: Path) -> None:
    outcome = run_python(package, "import sluicemq.examples.first_look as demo; print(demo.__path__[0])", tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert Path(outcome.stdout.strip()).is_relative_to(package.site)


IMPORT_WITH_LITTLE_INSTALLED = """
import sys

class NotInstalled:
    # Stands before every other finder and knows nothing but the standard library and what the client needs.
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in {installed!r} and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named {{name!r}} in the environment of a client", name=name)
        return None

sys.meta_path.insert(0, NotInstalled())
from importlib import import_module
from sluicemq.client import connect
for name in {modules!r}:
    import_module(name)
print(*sorted({{name.partition(".")[0] for name in sys.modules}} - set(sys.stdlib_module_names)))
"""


def modules_for_users_of_the_client() -> list[str]:
    """Return `sluicemq.client` and all of `sluicemq.wire`; how the client talks to trio is imported only under trio."""
    wire = sorted(path.stem for path in (CHECKOUT / "wire").glob("*.py") if path.stem != "__init__")
    return ["sluicemq.client", "sluicemq.wire", *(f"sluicemq.wire.{name}" for name in wire)]


def test_the_client_imports_where_only_its_own_dependencies_are_installed(package: Package, tmp_path: Path) -> None:
    installed = ("sluicemq", *CLIENT_NEEDS)
    program = IMPORT_WITH_LITTLE_INSTALLED.format(installed=installed, modules=modules_for_users_of_the_client())
    outcome = run_python(package, program, tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    loaded = set(outcome.stdout.split())
    assert "anyio" in loaded, "the client did not really load"
    assert not loaded & {"trio", "click", "rich", "structlog", "sortedcontainers", "pydantic"}


def test_the_client_imports_no_broker(package: Package, tmp_path: Path) -> None:
    program = "import sys; from sluicemq.client import connect; print(*sys.modules)"
    outcome = run_python(package, program, tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    parts = {name.split(".")[1] for name in outcome.stdout.split() if name.startswith("sluicemq.")}
    assert parts == {"client", "wire"}
