"""A private certificate authority, with a certificate for servers on this machine."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme

__all__ = ["Certificates"]


class Certificates:
    """An authority, and its certificate for a server on 127.0.0.1 and localhost.

    Attributes:
        authority: the file with the authority's certificate.
        chain: the file with the server's, and those that lead to the authority.
        key: the file with the server's private key.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._authority = trustme.CA()
        self._issued = self._authority.issue_cert("127.0.0.1", "localhost")
        self.authority = directory / "authority.pem"
        self.chain = directory / "chain.pem"
        self.key = directory / "key.pem"
        self._authority.cert_pem.write_to_path(self.authority)
        for blob in self._issued.cert_chain_pems:
            blob.write_to_path(self.chain, append=True)
        self._issued.private_key_pem.write_to_path(self.key)

    def client(self) -> ssl.SSLContext:
        """Return a client's context that trusts this authority and no other."""
        return ssl.create_default_context(cafile=self.authority)

    def server(self) -> ssl.SSLContext:
        """Return a server's context with this certificate."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._issued.configure_cert(context)
        return context
