"""Deliberate faults in the order by key, each of which the random lives must catch.

A fault replaces one function by one that forgets something. A new rule of the dispatcher deserves one here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sluicemq.broker.queues.dispatching import line
from sluicemq.broker.queues.dispatching.key_order import KeyOrder
from sluicemq.broker.queues.dispatching.key_states import KeyState
from sluicemq.broker.queues.dispatching.line import Line
from sluicemq.broker.queues.keys import KeyStates

if TYPE_CHECKING:
    import pytest


class Mutant(NamedTuple):
    """A fault.

    Attributes:
        name: What is wrong, in words.
        owner: Where the function stands,
        function: what it is called,
        replacement: and what stands there instead.

    """

    name: str
    owner: Any
    function: str
    replacement: Any

    def apply(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(self.owner, self.function, self.replacement)


def _nothing(*_: Any) -> None:
    """Do nothing."""


_holder, _begin, _drop_passed, _serve = KeyOrder._holder, KeyOrder.__init__, KeyState.drop_passed, KeyOrder._serve
_release, _purged, _changed, _go_on = KeyOrder._release, KeyOrder.purged, KeyOrder.consumers_changed, KeyStates.go_on


def _another_for_one_that_left(keys: Any, state: Any) -> Any:
    if state.holder not in keys._line.consumers:
        return keys._preferred(state.key)
    return _holder(keys, state)


def _anybody_for_one_without_credit(keys: Any, state: Any) -> Any:
    return _holder(keys, state) or keys._preferred(state.key)


def _leave_boxes(keys: Any, consumer: Any) -> None:
    if consumer.eligible:
        keys._ring.remove(consumer)
    keys._held_up.pop(consumer.identity, None)


def _leave_the_ring_as_it_is(keys: Any, consumer: Any) -> None:
    keys._held_up.pop(consumer.identity, None)
    keys._unpack(lambda box: box.consumer is consumer)


def _unpack_without_release(keys: Any, which: Any) -> None:
    for box in [box for box in keys._boxes if which(box)]:
        keys._boxes.remove(box)
        box.consumer.held_messages -= box.messages
        box.consumer.held_bytes -= box.bytes
        keys.take_back(box.runs)


def _unpack_without_credit(keys: Any, which: Any) -> None:
    for box in [box for box in keys._boxes if which(box)]:
        keys._boxes.remove(box)
        keys.take_back(box.runs)
        for run in box.runs:
            if run.key:
                keys._release(keys._states[run.key], run.size)


def _take_back_behind_others(keys: Any, runs: Any) -> None:
    for run in runs:
        if run.key:
            state = keys._state(run.key)
            state.returned.append(run)
            keys._look_at(state)
        else:
            keys._line.returned[run.place] = run


def _begin_without_leases(keys: Any, its_line: Any) -> None:
    _begin(keys, its_line)
    for state in keys._states.values():
        state.in_flight, state.holder = 0, None


def _begin_without_what_came_back(keys: Any, its_line: Any) -> None:
    _begin(keys, its_line)
    its_line.returned.clear()
    for state in keys._states.values():
        state.returned = []


def _remove_only_whole_runs(keys: Any, run: Any) -> None:
    state = keys._states.get(run.key)
    if state is not None:
        state.returned = [other for other in state.returned if other.place != run.place]


def _purge_passed_over_only(keys: Any) -> None:
    came_back = {state: state.returned for state in keys._states.values()}
    _purged(keys)
    for state, returned in came_back.items():
        state.returned = returned


def _keep_the_holder(keys: Any, state: Any, messages: int) -> None:
    holder = state.holder
    _release(keys, state, messages)
    state.holder = holder


def _forget_the_range(state: Any) -> int:
    while state._passed is not None and not _drop_passed(state):
        pass
    return 1


def _count_no_range(state: Any) -> int:
    _drop_passed(state)
    return 0


def _allow_one_more(keys: Any, state: Any) -> bool:
    keys._limit += 1
    try:
        return _serve(keys, state)
    finally:
        keys._limit -= 1


def _forget_places(states: Any, runs: Any) -> Any:
    states.places.clear()
    return _go_on(states, runs)


def _keep_the_ring(keys: Any) -> None:
    boxes, keys._boxes = keys._boxes, type(keys._boxes)()
    _changed(keys)
    keys._boxes = boxes


MUTANTS = (
    Mutant("who left with messages loses the key", KeyOrder, "_holder", _another_for_one_that_left),
    Mutant("who has no credit loses the key", KeyOrder, "_holder", _anybody_for_one_without_credit),
    Mutant("who leaves gets what was dealt to him", KeyOrder, "left", _leave_boxes),
    Mutant("who leaves still owns his keys", KeyOrder, "left", _leave_the_ring_as_it_is),
    Mutant("who does not take part any more gets what was dealt", KeyOrder, "consumers_changed", _keep_the_ring),
    Mutant("what is taken back frees no key", KeyOrder, "_unpack", _unpack_without_release),
    Mutant("what is taken back frees no credit", KeyOrder, "_unpack", _unpack_without_credit),
    Mutant("a void grant frees no key", KeyOrder, "void", _nothing),
    Mutant("the end of a lease frees no key", KeyOrder, "freed", _nothing),
    Mutant("a key that is free stays with who had it", KeyOrder, "_release", _keep_the_holder),
    Mutant("what comes back goes behind the others", KeyOrder, "take_back", _take_back_behind_others),
    Mutant("a new leader does not know who has what", KeyOrder, "__init__", _begin_without_leases),
    Mutant("a new leader forgets what came back", KeyOrder, "__init__", _begin_without_what_came_back),
    Mutant("what expires stays where it was cut", KeyOrder, "removed", _remove_only_whole_runs),
    Mutant("a purge leaves what came back", KeyOrder, "purged", _purge_passed_over_only),
    Mutant("what was dealt is handed out whatever came back", KeyOrder, "_is_in_order", lambda _keys, _box: True),
    Mutant("one more message of a key is out", KeyOrder, "_serve", _allow_one_more),
    Mutant("another limit is not followed", KeyOrder, "settings_changed", _nothing),
    Mutant("credit that comes back frees nothing", KeyOrder, "can_take_more", _nothing),
    Mutant("a chunk that was read frees nothing", KeyOrder, "filled", _nothing),
    Mutant("keys that wait are open", KeyOrder, "_is_open", lambda _keys, _key: True),
    Mutant("a range passed over is forgotten with its first run", KeyState, "drop_passed", _forget_the_range),
    Mutant("ranges passed over are counted and never less", KeyState, "drop_passed", _count_no_range),
    Mutant("a message that waited forgets its place", KeyStates, "go_on", _forget_places),
    Mutant("who looked in vain does not look again", Line, "unfinished", property(lambda _line: False)),
    Mutant("the next active one does not wait for the last", line, "may_deliver", lambda *_: True),
)
