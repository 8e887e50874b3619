"""Write nats.conf from the table of roles: `python -m deploy.nats_conf [NAMESPACE] > deploy/nats.conf`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from headrace.roles import ROLES, users

HEADER = """\
# nats-server of a deployment. The embedded server of `headrace up` is started by embedded/ and does not read this.
# `make nats-conf` writes this file from headrace/roles.py, which says who may do what and why.
server_name: headrace
listen: 0.0.0.0:4222

# Monitoring has no login, so only this container's own health check reaches it.
http: 127.0.0.1:8222

max_payload: 1MB
max_connections: 1000

jetstream {
  store_dir: /data
  max_memory_store: 64MB
  # Above the sum of the streams' max_bytes, which JetStream reserves, and well below the disk: a full disk
  # freezes a stream until the server restarts, a full store is refused cleanly.
  max_file_store: 8GB
  # fsync before the PubAck. The default, every two minutes, loses acknowledged documents in a power cut.
  sync_interval: always
}

# One user a role; what is not listed is refused. Each password comes from the environment, in quotes, which the
# server would else read as a number where it looks like one.
authorization {
  users: [
"""
FOOTER = """\
  ]
}
"""


def nats_conf(namespace: str = "") -> str:
    """Return the whole file for a Headrace of this namespace."""
    return HEADER + "".join(_user(user) for user in users(dict.fromkeys(ROLES, ""), namespace)) + FOOTER


def variable(role: str) -> str:
    """Return the name of the variable that holds a role's password."""
    return f"NATS_{role.upper()}_PASSWORD"


def _user(user: dict[str, object]) -> str:
    name = str(user["user"])
    lines = [f"user: {name}", f"password: ${variable(name)}"]
    if "permissions" in user:
        lines.append(f"allowed_connection_types: {json.dumps(user['allowed_connection_types'])}")
        lines += ["permissions {", *(f"  {line}" for line in _permissions(user["permissions"])), "}"]
    return "".join(f"    {line}\n" for line in ("{", *(f"  {line}" for line in lines), "}"))


def _permissions(found: object) -> Iterator[str]:
    assert isinstance(found, dict)
    for verb in ("publish", "subscribe"):
        yield f"{verb} {{"
        yield "  allow: ["
        yield from (f"    {json.dumps(subject)}" for subject in found[verb]["allow"])
        yield "  ]"
        yield "}"
    if "allow_responses" in found:
        bounds = found["allow_responses"]
        yield f'allow_responses {{ max: {bounds["max"]}, expires: "{bounds["expires"]}" }}'


if __name__ == "__main__":
    sys.stdout.write(nats_conf(*sys.argv[1:2]))
