"""`docs/settings.md` is made from the code: SLUICEMQ_TESTS_REWRITE=1 writes it anew; review the difference."""

from __future__ import annotations

import ast
import inspect
import os
import re
import textwrap
from pathlib import Path
from typing import Any, get_args, get_type_hints, is_typeddict

import pytest

from sluicemq.broker.config import SETTINGS, BrokerConfig, format_setting
from sluicemq.wire import settings as of_queues

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
REWRITE_VARIABLE = "SLUICEMQ_TESTS_REWRITE"
HEAD = """# Settings

Made from the code by a test.

## Of a broker

A flag of `sluicemq serve` goes before a variable, a variable before the file that `--config` names, the file before the
default. `sluicemq config` shows each value and where it comes from. Sizes may be written `64MiB` or `10MB`. A name that
is not in this table is refused, with the nearest one that is.

```toml
# sluicemq.toml
data = "/var/lib/sluicemq"
listen = "0.0.0.0:7650"
disk_free_bytes_min = "2GiB"
```
"""
OF_QUEUES = """## Of a queue or subscription

Given when it is declared (`await client.declare_queue("orders", max_deliveries=5)`, `sluicemq queue declare orders
--set max_deliveries=5`) or by a policy for all names of a pattern. *live*: it can change while the queue holds
messages. A map is given as one, `retry={"initial": 1, "factor": 4}`, and to the command as JSON,
`--set 'retry={"initial": 1, "factor": 4}'`; its keys stand below the table.
"""
MAPS: dict[str, tuple[type, dict[str, Any]]] = {
    "retry": (of_queues.GrowingDelay, {"initial": 1.0}),
    "retention": (of_queues.Retention, {"seconds": 1.0, "bytes": 1}),
    "delivery_adaptive": (of_queues.AdaptiveRate, {}),
}
"""Settings that are maps: the type that describes their keys, and values for those keys that have no default."""
OF_TOPICS = """## Of a topic

"""


def broker_texts() -> dict[str, str]:
    """Return the text below each field of BrokerConfig."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(BrokerConfig))).body
    assert isinstance(tree, ast.ClassDef)
    texts = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            texts[field.target.id] = " ".join(str(text.value.value).split())
    texts["listen"] = texts.pop("host") + " " + texts.pop("port")
    return texts


def attribute_texts(cls: type) -> dict[str, str]:
    """Return what the Attributes section of a class's docstring says of each name."""
    lines = inspect.getdoc(cls).split("Attributes:\n")[1].splitlines()
    texts: dict[str, str] = {}
    for line in lines:
        if match := re.match(r"    (\w+): (.*)", line):
            name = match[1]
            texts[name] = match[2]
        elif line.strip():
            texts[name] += " " + line.strip()
    return texts


def broker_table() -> str:
    texts = broker_texts()
    rows = ["| setting | flag, variable | default | what it is |", "| --- | --- | --- | --- |"]
    defaults = BrokerConfig().settings()
    for setting in SETTINGS:
        shown = format_setting(setting.name, defaults[setting.name])
        shown = "" if shown in {"", "-"} else f"`{shown}`"
        names = f"`{setting.flag}` `{setting.variable}`"
        rows.append(f"| `{setting.name}` | {names} | {shown} | {texts[setting.name]} |")
    return "\n".join(rows) + "\n"


def queue_table(cls: type, settings: dict[str, of_queues.Setting]) -> str:
    texts = attribute_texts(cls)
    rows = ["| setting | default | live | what it is |", "| --- | --- | --- | --- |"]
    for name, setting in settings.items():
        text = texts[name].replace("|", "\\|")
        rows.append(f"| `{name}` | `{setting.default!r}` | {'yes' if setting.live else 'no'} | {text} |")
    return "\n".join(rows) + "\n"


def map_section(name: str) -> str:
    cls, given = MAPS[name]
    complete = of_queues.QUEUE_SETTINGS[name].check(name, given)
    rows = ["| key | default | what it is |", "| --- | --- | --- |"]
    for key, text in attribute_texts(cls).items():
        default = "" if key in given else f"`{complete[key]!r}`"
        rows.append(f"| `{key}` | {default} | {text} |")
    about = (inspect.getdoc(cls) or "").splitlines()[0]
    return f"### `{name}`: {cls.__name__}\n\n{about}\n\n" + "\n".join(rows) + "\n"


def document() -> str:
    return "\n".join(
        [
            HEAD,
            broker_table(),
            OF_QUEUES,
            queue_table(of_queues.QueueSettings, of_queues.QUEUE_SETTINGS),
            *(map_section(name) for name in MAPS),
            OF_TOPICS + queue_table(of_queues.TopicSettings, of_queues.TOPIC_SETTINGS),
        ]
    )


def test_the_document_is_what_the_code_says() -> None:
    expected = document()
    if os.environ.get(REWRITE_VARIABLE):
        DOCUMENT.write_text(expected, encoding="utf-8")
    assert DOCUMENT.read_text(encoding="utf-8") == expected, f"{REWRITE_VARIABLE}=1 writes {DOCUMENT} anew"


def test_texts_name_the_limits_of_the_code() -> None:
    texts = attribute_texts(of_queues.QueueSettings)
    assert (
        f"{of_queues.DEDUP_IDS_DEFAULT:,}. 0: as many as there may be, {of_queues.DEDUP_IDS_MAX:,}"
        in texts["dedup_count"]
    )
    assert f"At most {of_queues.DEDUP_IDS_MAX:,} ids" in texts["settled_window"]


def test_every_setting_has_a_text() -> None:
    assert set(broker_texts()) == {setting.name for setting in SETTINGS}
    assert set(attribute_texts(of_queues.QueueSettings)) == set(of_queues.QUEUE_SETTINGS)
    assert set(attribute_texts(of_queues.TopicSettings)) == set(of_queues.TOPIC_SETTINGS)


@pytest.mark.parametrize("name", MAPS)
def test_every_key_of_a_setting_that_is_a_map_has_a_text(name: str) -> None:
    cls, given = MAPS[name]
    complete = of_queues.QUEUE_SETTINGS[name].check(name, given)
    assert set(attribute_texts(cls)) == set(complete) == set(cls.__annotations__)


def test_these_are_all_settings_that_are_maps() -> None:
    kinds = {name: get_args(hint) for name, hint in get_type_hints(of_queues.QueueSettings).items()}
    described = {name: kind for name, all_kinds in kinds.items() for kind in all_kinds if is_typeddict(kind)}
    assert described == {name: cls for name, (cls, _given) in MAPS.items()}
