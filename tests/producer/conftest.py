"""What tests of `headrace produce` share."""

from tests.producer.test_upload import gateway

__all__ = ["gateway"]
