"""What decorators take and refuse, before any broker is there."""

from __future__ import annotations

import pytest

from sluicemq.client import App, Message, codecs
from sluicemq.client.errors import InvalidRequest, UnknownOption


def test_a_decorated_function_stays_what_it_is():
    app = App()

    @app.consumer("orders", concurrency=8, codec=codecs.JSON)
    @app.publisher("bills")
    def handle(order, message: Message | None = None):
        return {"bill": order["number"]}

    assert handle({"number": 7}) == {"bill": 7}


def test_a_parameter_that_stands_for_nothing_is_refused_by_name():
    app = App()
    with pytest.raises(TypeError, match="'second' that stands for nothing"):

        @app.consumer("orders")
        async def handle(first: str, second: str):
            """Never called."""


def test_an_annotation_without_a_codec_is_refused_unless_a_codec_is_named():
    app = App()
    with pytest.raises(TypeError, match="codec="):

        @app.consumer("orders")
        async def handle(value: set):
            """Never called."""

    @app.consumer("orders", codec=codecs.MSGPACK)
    async def other(value: set):
        """Its codec knows."""


def test_an_annotation_that_names_nothing_is_refused():
    app = App()
    with pytest.raises(TypeError, match="'Nothing'"):

        @app.consumer("orders")
        async def handle(value: Nothing):  # type: ignore[name-defined]  # noqa: F821
            """Never called."""


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"concurrency": 0}, InvalidRequest),
        ({"concurrency": "8"}, TypeError),
        ({"max_delivery": 3}, UnknownOption),
        ({"max_deliveries": -1}, InvalidRequest),
        ({"declare": False, "max_deliveries": 3}, TypeError),
    ],
)
def test_wrong_arguments_are_refused_where_they_stand(arguments, error):
    with pytest.raises(error):
        App().consumer("orders", **arguments)


def test_names_and_patterns_are_checked_where_they_stand():
    app = App()
    for mistake in (lambda: app.consumer(""), lambda: app.publisher(""), lambda: app.subscriber("orders.**")):
        with pytest.raises(InvalidRequest):
            mistake()


def test_the_address_comes_from_the_environment_unless_it_is_given(monkeypatch):
    monkeypatch.setenv("SLUICEMQ_URL", "sluicemq://there:1")
    assert App().url == "sluicemq://there:1"
    assert App("sluicemq://here:2").url == "sluicemq://here:2"
    monkeypatch.delenv("SLUICEMQ_URL")
    assert App().url == "sluicemq://127.0.0.1:7650"
