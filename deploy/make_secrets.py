"""Make the secrets that compose.yaml reads, one file each in deploy/secrets/."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "secrets"
# As headrace/roles.py names them, which this script cannot import before anything is installed.
NATS_ROLES = ("gateway", "auth", "workers", "analytics", "device", "bridge", "operator")


def secret_files(token: str, password_of: dict[str, str]) -> dict[str, str]:
    """Return {file name: content}: each server's password and the URL that holds it.

    Args:
        token: what MongoDB's members would know each other by.
        password_of: passwords by server, and by role as `nats_<role>`; URL-safe, so they stand in a URL as they are.
    """
    mongo, postgres, valkey = (password_of[server] for server in ("mongo", "postgres", "valkey"))
    nats = {role: password_of[f"nats_{role}"] for role in NATS_ROLES}
    return {
        "admin_password": password_of["admin"],
        "mongo_keyfile": token,
        "mongo_password": mongo,
        "mongo_root_password": password_of["mongo_root"],
        "mongo_url": f"mongodb://headrace:{mongo}@mongo:27017/headrace?replicaSet=headrace&w=majority",
        # Read by a shell. The inner quotes are for nats.conf, which would read a password of digits as a number.
        "nats_passwords": "".join(
            f"NATS_{role.upper()}_PASSWORD='\"{password}\"'\n" for role, password in nats.items()
        ),
        **{f"nats_url_{role}": f"nats://{role}:{password}@nats:4222" for role, password in nats.items()},
        "postgres_password": postgres,
        "postgres_url": f"postgresql://headrace:{postgres}@postgres:5432/headrace",
        "valkey_password": valkey,
        "valkey_url": f"redis://:{valkey}@valkey:6379/0",
    }


def main() -> None:
    """Write the files, or refuse: a password made anew would lock us out of a server that has the old one."""
    existing = sorted(path.name for path in FOLDER.iterdir() if path.name != ".gitignore") if FOLDER.exists() else []
    if existing:
        sys.exit(f"{FOLDER} has secrets already ({', '.join(existing)}); remove them, and the volumes, to start anew")
    # Nobody else on this host looks into the folder; inside a container the service's own user must read its files.
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    FOLDER.chmod(0o700)
    servers = ("admin", "mongo", "mongo_root", "postgres", "valkey", *(f"nats_{role}" for role in NATS_ROLES))
    passwords = {server: secrets.token_hex(24) for server in servers}
    for name, content in secret_files(secrets.token_hex(48), passwords).items():
        path = FOLDER / name
        path.write_text(content)
        path.chmod(0o444)
    print(f"secrets are in {FOLDER}; the password of `admin` is in {FOLDER / 'admin_password'}")


if __name__ == "__main__":
    main()
