"""A broker for the tests of programs that use one: the real one, in the process of the test, with a clock to turn.

    def test_what_is_delayed_comes_later(sluicemq): ...

`pytest_plugin` has the fixture; `InProcessBroker` is what it gives, also without pytest. Server, road, log and
machine are those of `sluicemq serve`, and clients connect by URL. Other than in production are three things around it:
the disk may lie in memory and loses what was not synced (`memory`, `power`), time can be moved on (`clock`), and
the broker ends as if it were killed (`broker`). Nothing here may be imported by what runs in production.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sluicemq.broker.testing.broker import BrokerDied as BrokerDied
    from sluicemq.broker.testing.broker import BrokerNotRunning as BrokerNotRunning
    from sluicemq.broker.testing.broker import InProcessBroker as InProcessBroker
    from sluicemq.broker.testing.clock import BrokerClock as BrokerClock

_NAMES = ("BrokerClock", "BrokerDied", "BrokerNotRunning", "InProcessBroker")


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: pytest imports the plugin in every run, and with it this package.
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sluicemq.broker.testing import broker

    return getattr(broker, name)


def __dir__() -> list[str]:
    return list(_NAMES)
