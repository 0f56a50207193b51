"""Certificates for the TLS tests, made anew for each run: a CA, and what it signed."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
#: The names that a server certificate is valid for.
SERVERS = {"localhost": ("localhost", "127.0.0.1", "::1"), "other": ("other.example",)}
DAY = datetime.timedelta(days=1)


class Certs:
    """Files NAME.pem and NAME.key in a directory, and contexts that use them.

    Servers: localhost, other (other.example), expired (localhost, until yesterday), stranger
    (localhost, of a CA that nobody trusts). For a client: client. The CA: ca.pem.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        ca, ca_key = self._authority("taut test CA")
        self._store("ca", ca, ca_key)
        for name, hosts in SERVERS.items():
            self._issue(name, hosts, ca, ca_key)
        self._issue("expired", SERVERS["localhost"], ca, ca_key, until=-DAY)
        self._issue("client", (), ca, ca_key)
        self._issue("stranger", SERVERS["localhost"], *self._authority("an unknown CA"))

    def path(self, name: str, suffix: str = "pem") -> str:
        return str(self.directory / f"{name}.{suffix}")

    def server(
        self,
        name: str = "localhost",
        version: str | None = None,
        client: ssl.VerifyMode = ssl.CERT_NONE,
        kind: type[ssl.SSLContext] = ssl.SSLContext,
    ) -> ssl.SSLContext:
        """A server's context; `client` says whether a client's certificate is asked for."""
        context = kind(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path(name), self.path(name, "key"))
        context.verify_mode = client
        context.load_verify_locations(self.path("ca"))
        return only(context, version)

    def client(
        self,
        name: str | None = None,
        version: str | None = None,
        kind: type[ssl.SSLContext] = ssl.SSLContext,
    ) -> ssl.SSLContext:
        """A client's context that trusts the CA; `name` is the certificate to show, if any."""
        context = kind(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.path("ca"))
        if name is not None:
            context.load_cert_chain(self.path(name), self.path(name, "key"))
        return only(context, version)

    def _store(self, name: str, cert: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        Path(self.path(name)).write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        private = Path(self.path(name, "key"))
        private.touch(mode=0o600)
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )

    @staticmethod
    def _authority(name: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(name, name, key.public_key(), until=DAY)
        ski = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        builder = builder.add_extension(_usage(ca=True), True).add_extension(ski, False)
        return builder.sign(key, hashes.SHA256()), key

    def _issue(
        self,
        name: str,
        hosts: tuple[str, ...],
        ca: x509.Certificate,
        ca_key: ec.EllipticCurvePrivateKey,
        until: datetime.timedelta = DAY,
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = ca.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        builder = _builder(name, str(issuer), key.public_key(), until)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        aki = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
        builder = builder.add_extension(_usage(ca=False), True).add_extension(aki, False)
        if hosts:
            names = x509.SubjectAlternativeName([_host(host) for host in hosts])
            builder = builder.add_extension(names, False)
        self._store(name, builder.sign(ca_key, hashes.SHA256()), key)


def only(context: ssl.SSLContext, version: str | None) -> ssl.SSLContext:
    """The context, which from now on speaks that version of TLS alone ("1.2", "1.3", None: any)."""
    if version is not None:
        context.minimum_version = context.maximum_version = VERSIONS[version]
    return context


def _builder(
    name: str, issuer: str, key: Any, until: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 3 * DAY)
        .not_valid_after(now + until)
    )


def _usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
