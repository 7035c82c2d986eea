"""The judges are shown histories that are wrong, and must find each; and one that is right, and must find nothing."""

from __future__ import annotations

import json

import pytest

from tests.e2e.chaos import history as h
from tests.e2e.chaos.checkers import CHECKERS, judge
from tests.e2e.chaos.history import Event, History, read

TARGETS = {
    "orders": ("orders",),
    "events": ("audit", "billing"),
    "inputs": ("inputs",),
    "left": ("left",),
    "right": ("right",),
    "halves": ("halves",),
}


def sent(number: int, at: float = 0.0, queue: str = "orders", **facts) -> Event:
    return Event(at, h.SENT, 1, number, queue, **facts)


def confirmed(number: int, zxid: int, queue: str = "orders", **facts) -> Event:
    return Event(1.0, h.CONFIRMED, 1, number, queue, position=f"0-{zxid:x}-0", **facts)


def handed(
    number: int, zxid: int, at: float = 2.0, queue: str = "orders", worker: str = "a", delivery: int = 1, **facts
):
    return Event(at, h.HANDED, 1, number, queue, worker, f"0-{zxid:x}-0", delivery, **facts)


def settles(number: int, at: float = 3.0, queue: str = "orders", worker: str = "a", **facts) -> Event:
    return Event(at, h.SETTLES, 1, number, queue, worker, **facts)


def settled(number: int, at: float = 4.0, queue: str = "orders", worker: str = "a", delivery: int = 1) -> Event:
    return Event(at, h.SETTLED, 1, number, queue, worker, "", delivery)


def life(number: int, zxid: int, queue: str = "orders", key: str = "", at: float = 0.0) -> list[Event]:
    """A message that is sent, confirmed, worked on and acknowledged."""
    return [
        sent(number, at, queue, key=key),
        confirmed(number, zxid, queue),
        *(
            event
            for target in TARGETS[queue]
            for event in (
                handed(number, zxid, at + 2.0, target, key=key),
                settles(number, at + 3.0, target, key=key),
                settled(number, at + 4.0, target),
            )
        ),
    ]


def moved(count: int, zxid: int, number: int = 1, outputs: tuple[str, ...] = ("left", "right")) -> list[Event]:
    """A transaction that takes an input and sends to both outputs; as far as those came."""
    name = f"900-{count}"
    return [
        handed(number, 21, queue="inputs", delivery=count),
        *(Event(2.5, h.SENT, 900, count, queue, transaction=name) for queue in ("left", "right")),
        settles(number, queue="inputs", delivery=count, transaction=name),
        *(Event(5.0, h.HANDED, 900, count, queue, "b", f"0-{zxid:x}-0", 1) for queue in outputs),
        *(Event(6.0, h.SETTLED, 900, count, queue, "b", "", 1) for queue in outputs),
    ]


INPUT = [sent(1, queue="inputs"), confirmed(1, 21, "inputs")]
PREPARED = [sent(1, queue="halves"), Event(0.5, h.DECIDED, 1, 1, "halves")]
COMES = [confirmed(1, 40, "halves"), handed(1, 40, queue="halves"), settled(1, queue="halves")]

GOOD = [
    *life(1, 16),
    *life(2, 17),
    *life(3, 18, "events"),
    *life(4, 19, key="k"),
    *life(5, 20, key="k", at=10.0),
    *INPUT,
    *moved(1, 30, outputs=()),
    *moved(2, 31),
    *PREPARED,
    *COMES,
    sent(1),
    Event(5.0, h.AGAIN, 1, 1, "orders", position="0-10-0"),
]

BAD = {
    "lost": [sent(9), confirmed(9, 30)],
    "lost in one of two subscriptions": [e for e in life(9, 30, "events") if e.queue != "billing"],
    "lost by a worker that was told so": [
        sent(9), confirmed(9, 30), handed(9, 30), settles(9), Event(4.0, h.LOST, 1, 9, "orders", "a")
    ],
    "nobody sent": [handed(9, 30)],
    "refused": [sent(9), Event(1.0, h.REFUSED, 1, 9, "orders"), handed(9, 30)],
    "acknowledged by two": [*life(9, 30), settled(9, 4.0, worker="b", delivery=2)],
    "came after they were acknowledged": [*life(9, 30), handed(9, 30, 5.0, worker="b", delivery=2)],
    "stored more than once": [*life(9, 30), handed(9, 31, worker="b")],
    "out of their producer's order": [*life(8, 31), *life(9, 30)],
    "overtook": [*life(8, 30, key="k"), sent(9, key="k"), confirmed(9, 31), handed(9, 31, 2.5, key="k"), settles(9)],
    "came early": [sent(9, 1.5, delay=1.0), confirmed(9, 30), handed(9, 30, 2.0), settles(9), settled(9)],
    "stored more than once, the second time by another client": [
        sent(1), Event(5.0, h.AGAIN, 1, 1, "orders", position="0-99-0")
    ],
    "leases ended before their time": [
        *life(9, 30)[:2], handed(9, 30), handed(9, 30, 3.0, worker="b", delivery=2, text="expired"),
        settles(9, worker="b"), settled(9, worker="b", delivery=2)
    ],
    "transactions were done in part": moved(3, 50, number=9, outputs=("left",)),
    "settled by two transactions": moved(3, 50),
    "came again after a transaction that settled them": [handed(1, 21, 9.0, queue="inputs", delivery=3)],
    "transactions were confirmed and not done": [
        *moved(3, 50, number=9, outputs=()), Event(4.0, h.SETTLED, 1, 9, "inputs", transaction="900-3")
    ],
    "came undecided": [sent(2, queue="halves"), confirmed(2, 41, "halves"), handed(2, 41, queue="halves")],
    "refused by the sender's database": [
        sent(2, queue="halves"), Event(1.0, h.REFUSED, 1, 2, "halves"), handed(2, 41, queue="halves")
    ],
    "errors reached user code": [Event(1.0, h.ERROR, text="ConnectionFailed")],
}  # fmt: skip


def test_a_history_without_a_fault_is_found_right():
    assert judge(GOOD, TARGETS) == []


@pytest.mark.parametrize("fault", BAD)
def test_a_fault_is_found(fault):
    found = judge([*GOOD, *BAD[fault]], TARGETS)
    vague = fault.startswith(("lost", "stored", "refused"))
    word = fault.split(" ")[0] if vague else fault

    assert any(word in problem for problem in found), found


def test_every_checker_finds_something_of_its_own():
    found = {check.__name__ for check in CHECKERS for bad in BAD.values() if check([*GOOD, *bad], TARGETS)}
    assert found == {check.__name__ for check in CHECKERS}


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([sent(9)], id="sent and never confirmed"),
        pytest.param(
            [sent(9), confirmed(9, 30), handed(9, 30), settles(9)], id="the answer to an acknowledgement is lost"
        ),
        pytest.param(
            [*life(9, 30), handed(9, 30, 5.0, worker="b", delivery=1)],
            id="a stale worker has it late and cannot settle",
        ),
        pytest.param(
            [
                sent(9),
                confirmed(9, 30),
                handed(9, 30),
                handed(9, 30, 2.5, worker="b", delivery=2),
                settled(9, delivery=2),
            ],
            id="a worker died and another one did it",
        ),
        pytest.param(
            [*life(9, 30)[:2], handed(9, 30), handed(9, 30, 2.5, worker="b", text="expired"), settled(9, worker="b")],
            id="a grant was undone with its leader",
        ),
        pytest.param(
            [
                sent(9, delay=1.0),
                Event(0.1, h.FAULT, text="clock one"),
                confirmed(9, 30),
                handed(9, 30, 0.92),
                settled(9),
            ],
            id="log time runs a little faster while it catches up",
        ),
    ],
)
def test_what_was_not_promised_is_no_fault(events):
    assert judge([*GOOD, *events], TARGETS) == []


def test_a_history_comes_back_from_its_file(tmp_path):
    history = History(tmp_path / "history.jsonl")
    history.add(h.SENT, producer=1, number=2, queue="orders", delay=0.5)
    history.add(h.FAULT, text="kill")
    history.close()
    lines = (tmp_path / "history.jsonl").read_text(encoding="utf-8").splitlines()

    assert list(read(lines)) == history.events
    assert "worker" not in json.loads(lines[0]), "what is empty is not written"
