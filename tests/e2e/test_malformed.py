"""Clients gone wrong end alone: 500 streams here, ten thousand from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sluicemq.wire import messages as m
from tests.e2e.malformed import OPTIONS, Outcome, breaks_the_protocol, judge, run
from tests.wire.mutations import HANDSHAKE, client_stream, frame

if TYPE_CHECKING:
    from tests.e2e.conftest import StartBroker

PAUSE_SECONDS_MAX = 20.0
"""Longest round of the healthy client. Generous, because machines that run tests pause by themselves; the command
prints the true figure."""


def test_five_hundred_spoiled_conversations_disturb_nobody(start_broker: StartBroker) -> None:
    broker = start_broker(options=OPTIONS)
    report = run(broker, count=500, seed=1)
    assert report.problems == []
    assert report.streams == 500
    assert report.healthy["rounds"] > 10
    assert report.healthy["longest"] < PAUSE_SECONDS_MAX
    broker.stop()


def test_the_judge_knows_a_broken_stream_from_a_sound_one() -> None:
    assert not breaks_the_protocol(client_stream(1))
    assert not breaks_the_protocol(HANDSHAKE[0])
    assert breaks_the_protocol(HANDSHAKE[0] + HANDSHAKE[2])
    assert breaks_the_protocol(client_stream(1) + b"\xff" * 16)
    assert not breaks_the_protocol(client_stream(1) + frame(m.Close()) + frame(m.Ping(), 1)), "it has left already"


@pytest.mark.parametrize(
    ("outcome", "fine"),
    [
        (Outcome("close", "protocol"), True),
        (Outcome("close", ""), False),
        (Outcome("close", "internal"), False),
        (Outcome("close", "protocol", {"internal"}), False),
        (Outcome("eof"), False),
        (Outcome("reset"), False),
        (Outcome("silence"), False),
    ],
)
def test_the_judge_wants_a_typed_close_where_the_bytes_break_the_protocol(outcome: Outcome, fine: bool) -> None:
    assert (judge("name", client_stream(1) + b"\xff" * 16, outcome) == []) is fine
