"""The URL of an MQTT broker."""

from __future__ import annotations

import pytest

from headrace.broker import Broker, broker_of
from headrace.errors import HeadraceError


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("mqtt://127.0.0.1", Broker("127.0.0.1", 1883, None, None, False)),
        ("mqtt://ada:s%40cret@broker:1884/", Broker("broker", 1884, "ada", "s@cret", False)),
        ("mqtts://broker", Broker("broker", 8883, None, None, True)),
        ("mqtt://[::1]:1885", Broker("::1", 1885, None, None, False)),
    ],
)
def test_a_url_names_a_broker(url: str, broker: Broker) -> None:
    assert broker_of(url) == broker


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:1883", "http://s3cret@x", "mqtt://", "mqtt://s3cret@x:port", "mqtt://x/topic"]
)
def test_what_is_no_url_of_a_broker_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(HeadraceError, match="mqtt://") as refused:
        broker_of(url)

    assert "s3cret" not in str(refused.value)
