"""Headrace: JSON documents over NATS JetStream into MongoDB, Postgres and Redis, exactly once in effect."""

__version__ = "0.1.0"
