"""Lives whose steps hypothesis chooses, and shrinks when one goes wrong."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.broker.queues.naive.choices import STEPS
from tests.broker.queues.naive.running import STEPS_A_LIFE
from tests.broker.queues.naive.steps import BEGINNINGS
from tests.broker.queues.naive.steps_of_windows import AllSteps


class Lives(RuleBasedStateMachine, AllSteps):
    """Every step of `STEPS` is a rule, as often as it weighs."""

    def __init__(self) -> None:
        RuleBasedStateMachine.__init__(self)
        AllSteps.__init__(self)


def with_rules(mortal: bool, begins: int) -> type[Lives]:
    """Return the class with its rules; its queue `orders` begins as the table says at this place."""
    body: dict[str, Any] = {
        "begin": initialize(
            mortal=st.just(mortal), orders=st.just(BEGINNINGS.options[begins]), news=BEGINNINGS.strategy()
        )(AllSteps.begin),
        "all_agree": invariant()(AllSteps.check),
        "teardown": AllSteps.end,
    }
    for name, step in STEPS.items():
        for number in range(step.weight):
            strategies = {argument: choice.strategy() for argument, choice in step.choices.items()}
            body[f"{name}_{number}" if number else name] = rule(**strategies)(step.take)  # type: ignore[call-overload]
    return type("Lives", (Lives,), body)


def live_so(mortal: bool, begins: int, lives: int, derandomize: bool) -> None:
    """Let hypothesis choose so many lives whose first queue is declared like this."""
    settings_of_all = settings(
        max_examples=lives, stateful_step_count=STEPS_A_LIFE, deadline=None, derandomize=derandomize, database=None
    )
    run_state_machine_as_test(with_rules(mortal, begins), settings=settings_of_all)
