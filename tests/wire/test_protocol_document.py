"""docs/protocol.md tells the truth: its tables are made from the classes and compared here.

After a change of the protocol run this file with SLUICEMQ_REWRITE_DOCUMENTS=1 and read the difference.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sluicemq.wire import batch, columns, errors, fields, frames, settings, unpacking
from sluicemq.wire import messages as m
from sluicemq.wire.batch import SUPPORTED_COLUMNS, Column
from sluicemq.wire.connection import MAY_HAVE_TAIL, OPEN_TYPES, REQUESTS, TRANSITIONS, Role
from sluicemq.wire.errors import SluiceError
from sluicemq.wire.fields import Field, Kind, Message
from sluicemq.wire.message_ids import COUNT_BITS, COUNT_MASK, EPOCH_MS, NODE_BITS, TIME_MS_MAX, default_message_id
from tests.wire.strategies import ALL_MESSAGES

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"
REWRITE_VARIABLE = "SLUICEMQ_REWRITE_DOCUMENTS"


def wire_name(name: str) -> str:
    """DeclareQueue -> DECLARE_QUEUE."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()


def sentences(doc: str | None) -> str:
    """The docstring as one paragraph."""
    assert doc is not None
    text = re.sub(r"\s+", " ", doc).strip()
    # The line above says already who sends it and what answers it.
    text = re.sub(r"^(Client to broker|Broker to client|Either side)(, first frame|, unasked)?: ", "", text)
    text = re.sub(r" ?Answered by [A-Z_]+\.$", "", text)
    return text[:1].upper() + text[1:]


def kind_in_words(kind: Kind) -> str:
    match kind.name:
        case "unsigned":
            return f"integer, {kind.bits} bits"
        case "number":
            return f"seconds, {kind.minimum:g} to {kind.maximum:,.0f}"
        case "text" | "binary":
            return f"{kind.name}, at most {kind.bytes_max:,} bytes"
        case "boolean":
            return "true or false"
        case "map_of_text":
            return "map with text keys"
        case "optional":
            assert kind.inner is not None
            return f"{kind_in_words(kind.inner)}; or nil"
        case "list_of":
            assert kind.inner is not None
            return f"list of at most {kind.items_max:,}: {kind_in_words(kind.inner)}"
        case "numbers":
            return f"flat list of integers, {kind.multiple_of} each"
        case "ranges":
            return "flat list of ascending ranges"
    raise AssertionError(f"no words for {kind.name}")


def default_in_words(field: Field) -> str:
    if field.required:
        return "required"
    words = {"None": "nil", "True": "true", "False": "false", "''": "empty", "b''": "empty"}
    return words.get(repr(field.default), f"`{field.default}`")


def direction_of(cls: type[Message]) -> str:
    senders = {sender for _, sender, what in TRANSITIONS if what is cls}
    senders |= {role for role in Role if cls.TYPE in OPEN_TYPES[role]}
    if cls is m.Close or len(senders) == 2:
        return "either side"
    return "client to broker" if senders == {Role.CLIENT} else "broker to client"


def answers_of(cls: type[Message]) -> str:
    if cls not in REQUESTS:
        return ""
    reply = REQUESTS[cls]
    return f"; answered by {wire_name(reply.__name__)} or ERROR" if reply else "; no answer"


def messages_section() -> str:
    lines: list[str] = []
    for cls in ALL_MESSAGES:
        tail = "; has a tail" if cls.TYPE in MAY_HAVE_TAIL else ""
        lines += [
            f"### {cls.TYPE} {wire_name(cls.__name__)}",
            "",
            f"{direction_of(cls).capitalize()}{answers_of(cls)}{tail}. {sentences(cls.__doc__)}".strip(),
            "",
        ]
        if cls.FIELDS:
            lines += ["| field | name | type | default |", "| --- | --- | --- | --- |"]
            lines += [
                f"| {field.number} | `{field.name}` | {kind_in_words(field.kind)} | {default_in_words(field)} |"
                for field in cls.FIELDS
            ]
            lines.append("")
    return "\n".join(lines).strip()


def handshake_section() -> str:
    lines = ["| state | frame | sent by | next state |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {before.value} | {wire_name(cls.__name__)} | {sender.value} | {after.value} |"
        for (before, sender, cls), after in TRANSITIONS.items()
    ]
    lines.append("| any but closed | CLOSE | either side | closed |")
    return "\n".join(lines)


def columns_section() -> str:
    lines = ["| bit | column | today |", "| --- | --- | --- |"]
    lines += [
        f"| 0x{column:04x} | {column.name} | {'supported' if column & SUPPORTED_COLUMNS else 'reserved, refused'} |"
        for column in Column
    ]
    return "\n".join(lines)


def errors_section() -> str:
    lines = ["| code | is also | retryable | meaning |", "| --- | --- | --- | --- |"]
    for name in errors.__all__:
        cls = getattr(errors, name)
        if isinstance(cls, type) and issubclass(cls, SluiceError):
            parent = next((f"`{base.code}`" for base in cls.__bases__ if issubclass(base, SluiceError)), "")
            retryable = "yes" if cls.retryable else "no"
            lines.append(f"| `{cls.code}` | {parent} | {retryable} | {first_paragraph(cls)} |")
    return "\n".join([*lines[:2], *sorted(lines[2:])])


def first_paragraph(cls: type[SluiceError]) -> str:
    assert cls.__doc__ is not None
    return re.sub(r"\s+", " ", cls.__doc__.split("\n\n")[0]).strip()


def limits_section() -> str:
    named = [
        ("Name of a queue, vhost, producer or consumer, bytes", m.NAME_BYTES_MAX),
        ("Key, bytes", batch.KEY_BYTES_MAX),
        ("Message id, bytes", batch.MESSAGE_ID_BYTES_MAX),
        ("Subject, bytes", batch.SUBJECT_BYTES_MAX),
        ("Items of one map or array in headers", columns.HEADER_ITEMS_MAX),
        ("Body of one message, bytes (default; OPENED tells)", batch.MESSAGE_BYTES_DEFAULT),
        ("Messages in a batch (OPENED tells)", batch.BATCH_MESSAGES_MAX),
        ("Values of a batch beside its bodies", columns.BATCH_VALUES_MAX),
        ("Bytes of a batch beside its bodies", columns.BATCH_COLUMNS_BYTES_MAX),
        ("Batch, bytes (default; OPENED tells)", batch.BATCH_BYTES_DEFAULT),
        ("Batch, bytes (at most, whatever OPENED tells)", batch.BATCH_BYTES_MAX),
        ("Frame before the session is open, bytes", frames.FRAME_BYTES_BEFORE_OPEN),
        ("Frame once it is open, bytes (default; WELCOME tells)", frames.FRAME_BYTES_DEFAULT),
        ("Head, bytes", fields.HEAD_BYTES_MAX),
        ("Items of an array or map in a head, unless it is a list field", unpacking.PLAIN_ITEMS_MAX),
        ("Queues in one QUEUES", m.QUEUES_PAGE_MAX),
        ("Longest duration, seconds", int(m.SECONDS_MAX)),
        ("Longest retry delay, seconds", int(settings.RETRY_DELAY_SECONDS_MAX)),
    ]
    return "\n".join(["| what | at most |", "| --- | --- |", *(f"| {what} | {limit:,} |" for what, limit in named)])


SECTIONS = {
    "handshake": handshake_section,
    "columns": columns_section,
    "messages": messages_section,
    "errors": errors_section,
    "limits": limits_section,
}


def with_sections(document: str) -> str:
    """Return *document* with what stands between its marks made anew."""
    for name, make in SECTIONS.items():
        mark = f"<!-- generated: {name} -->\n"
        assert document.count(mark) == 1, f"docs/protocol.md needs the mark {mark!r} once"
        before, rest = document.split(mark)
        _, after = rest.split("<!-- end -->", 1)
        document = f"{before}{mark}\n{make()}\n\n<!-- end -->{after}"
    return document


def test_the_tables_are_those_of_the_code():
    document = DOCUMENT.read_text(encoding="utf-8")
    expected = with_sections(document)
    if os.environ.get(REWRITE_VARIABLE):
        DOCUMENT.write_text(expected, encoding="utf-8")
        pytest.skip(f"docs/protocol.md was written anew, because {REWRITE_VARIABLE} is set")
    assert document == expected, f"run this file with {REWRITE_VARIABLE}=1 and read the difference"


def test_the_numbers_in_the_text_are_those_of_the_code():
    text = DOCUMENT.read_text(encoding="utf-8").split("<!-- generated: messages -->")[0]
    preface = " ".join(f"{byte:02X}" for byte in frames.PREFACE)
    for words in (
        preface,
        f"at most {frames.FRAME_BYTES_BEFORE_OPEN:,} bytes until the session is open",
        f"at least {frames.FRAME_BYTES_MIN:,}",
        f"at most {fields.HEAD_BYTES_MAX >> 20} MiB",
        f"at most {unpacking.PLAIN_ITEMS_MAX:,} items",
        f"1 to {batch.BATCH_MESSAGES_MAX:,}",
        f"the whole batch has at most {batch.BATCH_BYTES_MAX >> 20} MiB",
        f"most {columns.HEADER_ITEMS_MAX} items each",
        f"at most {columns.BATCH_VALUES_MAX:,} values",
        f"at most {columns.BATCH_COLUMNS_BYTES_MAX >> 20} MiB beside the bodies",
        f"{m.VERDICT_ACK} ack, {m.VERDICT_NACK} nack, {m.VERDICT_RELEASE} release",
    ):
        assert words in text, f"docs/protocol.md does not say {words!r}"


def test_ids_that_nobody_gave_are_made_as_the_text_says():
    text = " ".join(DOCUMENT.read_text(encoding="utf-8").split())
    (shown,) = re.findall(r"16 lower-case hexadecimal digits: `(\w+)`", text)
    assert default_message_id(int(shown, 16), 0) == shown
    assert datetime.fromtimestamp(EPOCH_MS / 1000, UTC) == datetime(2024, 1, 1, tzinfo=UTC)
    for words in (
        f"{TIME_MS_MAX.bit_length()} bits of milliseconds since the beginning of 2024 (UTC)",
        f"{NODE_BITS} bits of the number of the broker that led",
        f"{COUNT_BITS} bits that count",
        f"where the count passes {COUNT_MASK:,}",
    ):
        assert words in text, f"docs/protocol.md does not say {words!r}"
    last_of_its_millisecond = int(shown, 16) | COUNT_MASK
    beyond = int(default_message_id(last_of_its_millisecond, 1), 16)
    assert beyond == (last_of_its_millisecond & ~COUNT_MASK) + (1 << NODE_BITS + COUNT_BITS)


def test_every_frame_with_a_tail_is_named_where_tails_are_explained():
    text = DOCUMENT.read_text(encoding="utf-8")
    for type_ in MAY_HAVE_TAIL:
        assert wire_name(m.MESSAGES[type_].__name__) in text.split("## 3. Heads")[0]
