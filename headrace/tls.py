"""TLS towards a server: whom to trust, and who we are. Of Postgres, MongoDB and Redis their URLs say it."""

from __future__ import annotations

import ssl
from pathlib import Path

from headrace.errors import HeadraceError


def client_context(ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Return what a connection is to be made with; None where nothing is set and the system's authorities will do.

    Args:
        ca: PEM file of who signs the servers' certificates, instead of the system's authorities.
        certificate, key: PEM files by which the server knows us.

    Raises:
        HeadraceError: a file cannot be read or holds nothing of the kind.
    """
    if ca is None and certificate is None:
        return None
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise _unusable(ca, "certificates", error) from None
    if certificate is not None:
        load_certificate(context, certificate, key)
    return context


def load_certificate(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    """Let a context prove itself with a certificate.

    Raises:
        HeadraceError: a file cannot be read, or the key is not the certificate's.
    """
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise _unusable(certificate, "a certificate and its key", error) from None


def _unusable(file: Path | None, wanted: str, error: OSError) -> HeadraceError:
    reason = error.strerror or type(error).__name__
    return HeadraceError(f"{file} does not give {wanted}: {reason}. Name PEM files that this process may read.")
