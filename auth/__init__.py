"""The auth service: the only one that knows passwords and the signing key."""
