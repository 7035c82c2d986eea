"""What a URL says, and what it must not say."""

import pytest

from sluicemq.client.errors import InvalidRequest
from sluicemq.client.url import BrokerUrl, parse_url, show_address


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sluicemq://127.0.0.1:7651", BrokerUrl((("127.0.0.1", 7651),))),
        ("sluicemq://broker", BrokerUrl((("broker", 7650),))),
        ("sluicemq://broker/", BrokerUrl((("broker", 7650),))),
        ("sluicemq://a:1,b:2,[::1]:3,[fe80::2]", BrokerUrl((("a", 1), ("b", 2), ("::1", 3), ("fe80::2", 7650)))),
        ("sluicemq://a:1,a:1", BrokerUrl((("a", 1),))),
        ("sluicemq://ada:se%40cret@a/shop%2Feu", BrokerUrl((("a", 7650),), "ada", "se@cret", "shop/eu")),
        ("sluicemq://ada@a", BrokerUrl((("a", 7650),), "ada", "")),
    ],
)
def test_a_url_names_addresses_user_and_vhost(url, expected):
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("amqp://a", "must begin with sluicemq://"),
        ("sluicemq://", "empty or broken host"),
        ("sluicemq://a:", "is no port"),
        ("sluicemq://a:0", "is no port"),
        ("sluicemq://a:65536", "is no port"),
        ("sluicemq://a:٣", "is no port"),
        ("sluicemq://a,,b", "empty or broken host"),
        ("sluicemq://[::1", "is no address"),
        ("sluicemq://[::1]x", "is no address"),
        ("sluicemq://a b", "empty or broken host"),
        ("sluicemq://a?x=1", "no query"),
        ("sluicemq://a/v?x=1", "no query"),
        ("sluicemq://:pw@a", "user is empty"),
        ("sluicemq://a%00:pw@a", "zero character"),
        ("sluicemq://%ff@a", "UTF-8"),
        ("sluicemq://a/" + "v" * 256, "virtual host"),
        ("sluicemq://" + ",".join(f"h{number}" for number in range(101)), "101 addresses"),
    ],
)
def test_a_broken_url_is_refused_with_its_fault(url, complaint):
    with pytest.raises(InvalidRequest, match=complaint):
        parse_url(url)


def test_a_password_is_in_no_repr_and_no_error():
    assert "s3cret" not in repr(parse_url("sluicemq://ada:s3cret@a"))
    with pytest.raises(InvalidRequest) as caught:
        parse_url("sluicemq://ada:s3cret@a:port")
    assert "s3cret" not in str(caught.value)


def test_bytes_are_no_url():
    with pytest.raises(TypeError, match="must be str"):
        parse_url(b"sluicemq://a")  # type: ignore[arg-type]


def test_an_ipv6_address_is_shown_in_brackets():
    assert show_address(("::1", 1)) == "[::1]:1"
    assert show_address(("a", 1)) == "a:1"
