"""The same job as an ordinary good engineer does it with FastAPI and FastStream, from their documentation.

Choices, each the documented one, and where there were two, the faster; neither logs:

- HTTP: FastAPI with the very schema of ours (`pipelines.invoices.InvoiceLine`); stock uvicorn, one process, uvloop
  and httptools, no access log.
- Authentication: FastAPI's OAuth2 tutorial with python-jose: `OAuth2PasswordBearer`, and a dependency that decodes
  the token of each request. HS256 as there, which costs a fraction of our ES256. No user is looked up in a database.
- Publishing: `broker.publisher(..., stream=JStream(...))` and an awaited PubAck before the 202; the broker lives
  in the app's lifespan. The NATS server is the one that Headrace uses, so it syncs each message
  (`sync_interval: always`); with JetStream's default sync a 202 would promise less than ours.
- Worker: FastStream with a durable JetStream pull subscriber and the message's model as its argument, so pydantic
  reads each message again, as it does in ours. Two variants: a message at a time, a hundred at once, as the examples
  do; and up to 500 in one call (`batch=True`), for those who read on.
- Stores: pymongo's own asynchronous client (motor, its deprecated predecessor, is slower), SQLAlchemy on asyncpg,
  redis-py with hiredis and one HINCRBY a metric in one pipeline; same servers, same settings: the Mongo URL asks for
  the journal, Postgres commits synchronously. The same fields, the same six metrics.
- Identity: an id made at the door; stores ignore an id that they have. HINCRBY is not idempotent, so a redelivery
  counts twice: an ordinary program accepts that, Headrace does not.
"""
