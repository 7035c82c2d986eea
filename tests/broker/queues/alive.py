"""An oracle for what an image keeps alive: every message that the machine holds anywhere, and none twice."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from sluicemq.broker.pipeline.keeping.liveness import Liveness, Span, Survivors
from sluicemq.broker.pipeline.keeping.old_files import find_missing
from sluicemq.broker.queues.halves import HALVES_ID
from sluicemq.broker.queues.image import live_runs
from sluicemq.broker.queues.runs import messages_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sluicemq.broker.queues.chunks import Page
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.runs import Run
    from sluicemq.broker.queues.sections import Section

Address = tuple[int, int]


def addresses(runs: Iterable[Run]) -> set[Address]:
    return {(run.zxid, index) for run in runs for index in range(run.first, run.first + run.size)}


def held_by_queue(machine: Machine) -> dict[int, set[Address]]:
    """Return what each queue and topic holds, wherever: ready, leased, delayed, dead, held back and retained; and what
    is prepared."""
    held: dict[int, set[Address]] = {}
    for queue in machine.queues():
        places = [*queue.returned, *queue.delayed.runs(), *queue.leased_runs(), *queue.dead.runs()]
        places += [run for lane in queue.lanes for run in lane.runs()]
        places += queue.history.runs.runs() if queue.history is not None else []
        held[queue.id] = addresses(places)
    for topic in machine.sources:
        places = topic.delayed.runs()
        places += topic.history.runs.runs() if topic.history is not None else []
        held[topic.id] = addresses(places)
        for filling in topic.fillings.values():
            held[filling.queue] |= addresses(filling.held.runs())
    held[HALVES_ID] = addresses(half.run for half in machine.halves)
    return {number: found for number, found in held.items() if found}


def check_alive(
    machine: Machine, sections: Sequence[Section], read_page: Callable[[Page], bytes], *, moves: bool = False
) -> None:
    """Assert that *sections*, an image of *machine*, keep alive what it holds, and that all who count agree.

    Args:
        machine: The machine.
        sections: Its image.
        read_page: Returns the rows of a page.
        moves: Whether messages may have moved to another queue while the first one retains them; both count those.

    """
    held = held_by_queue(machine)
    everything = set().union(*held.values())
    span = Span(1, machine.applied_zxid)
    alone: Counter[Address] = Counter()
    alive: set[Address] = set()
    named: dict[int, set[Address]] = {}
    more = 0  # of a run whose front was taken its row says more than is left: a summary counts it whole
    liveness, survivors = Liveness([span], read_page, span.last_zxid), Survivors([span], read_page)
    for part in live_runs(sections):
        runs = part.runs(read_page)
        alive |= addresses(runs)
        named.setdefault(part.queue, set()).update(addresses(runs))
        if not part.shared:
            alone.update(addresses(runs))
            assert messages_in(runs) == len(addresses(runs)), "one part has a message once"
        if not part.shared and not part.partial:
            more += part.summary.messages - messages_in(runs)
        liveness.add(part)
        survivors.add(part)
    assert alive == everything, "what is alive is what the machine holds"
    assert {number: found for number, found in named.items() if found} == held, "and each queue has its own part in it"
    kept = {
        (zxid, index)
        for zxid, ranges in survivors.within(*span)
        for first, size in ranges
        for index in range(first, first + size)
    }
    assert kept == everything, "nothing is lost when files are rewritten"
    assert liveness.runs[0] == survivors.runs(1), "both passes of the reclaimer find the same"
    assert liveness.messages[0] >= len(everything)
    if not moves:
        assert liveness.messages[0] == len(everything) + more, "none counts twice"
        assert not alone or max(alone.values()) == 1
    gone = find_missing(machine, [], span.last_zxid, read_page)
    counts: Counter[int] = sum((each.messages for each in gone), Counter())
    assert set(counts) == set(held), "what is missing is missed"
    for number, found in held.items():
        assert counts[number] == len(found), "each message of a queue once"
