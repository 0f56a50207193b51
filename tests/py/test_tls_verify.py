"""TLS: names, certificates, SNI, alerts, resumption of sessions, logs of keys and messages."""

from __future__ import annotations

import asyncio
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest
from tls_certs import Certs, only
from tls_peers import Echo, accept, dial, listening, refused, try_to_connect

from loops import Factory, Faults, Recorder, run, serve, until

# ---- names and certificates ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "cert, name, words",
    [
        ("other", "localhost", "Hostname mismatch"),
        ("localhost", "other.example", "Hostname mismatch"),
        ("localhost", "127.0.0.2", "IP address mismatch"),
        ("expired", "localhost", "certificate has expired"),
        ("stranger", "localhost", "unable to get local issuer certificate"),
    ],
)
def test_the_client_refuses_certificates(
    factory: Factory, certs: Certs, version: str, cert: str, name: str, words: str
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        faults = Faults(loop)
        made: list[Recorder] = []
        server, address = await serve(
            lambda: made.append(Recorder()) or made[-1], ssl=certs.server(cert, version)
        )
        exc = await try_to_connect(address, certs.client(version=version), name)
        assert type(exc) is ssl.SSLCertVerificationError
        assert words in str(exc)
        server.close()
        await server.wait_closed()
        assert faults.contexts == []

    run(factory, main())


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_the_names_of_a_certificate(factory: Factory, certs: Certs, name: str) -> None:
    async def main() -> None:
        server, address = await serve(Recorder, ssl=certs.server())
        transport = await try_to_connect(address, certs.client(), name)
        assert transport.get_extra_info("ssl_object").server_hostname == name
        server.close()

    run(factory, main())


def test_sni_swaps_the_context(factory: Factory, certs: Certs, version: str) -> None:
    async def main() -> None:
        names: list[str | None] = []
        other = certs.server("other", version)

        def choose(obj: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
            assert type(obj) is ssl.SSLObject and context is default
            names.append(name)
            if name == "other.example":
                obj.context = other

        default = certs.server(version=version)
        default.sni_callback = choose  # type: ignore[assignment]
        served: list[Recorder] = []
        server, address = await serve(lambda: served.append(Recorder()) or served[-1], ssl=default)
        for name in ("localhost", "other.example"):
            transport = await try_to_connect(address, certs.client(version=version), name)
            san = transport.get_extra_info("peercert")["subjectAltName"]
            assert ("DNS", name) in san
        assert names == ["localhost", "other.example"]
        await until(lambda: len(served) == 2 and served[1].lost, "the ends")
        assert served[1].transport.get_extra_info("ssl_object").context is other
        assert served[1].transport.get_extra_info("sslcontext") is default
        server.close()

    run(factory, main())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("how", ["returns", "raises"])
def test_sni_refuses(factory: Factory, certs: Certs, how: str) -> None:
    def refuse(obj: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> int:
        if how == "raises":
            raise ZeroDivisionError("sni")
        return int(ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME)

    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        context = certs.server()
        context.sni_callback = refuse  # type: ignore[assignment]
        served: list[Recorder] = []
        server, address = await serve(lambda: served.append(Recorder()) or served[-1], ssl=context)
        exc = await try_to_connect(address, certs.client())
        alert = "UNRECOGNIZED_NAME" if how == "returns" else "HANDSHAKE_FAILURE"
        assert refused(exc, alert), exc
        assert served[0].calls == []
        assert faults.contexts == []
        server.close()

    run(factory, main())


def test_client_certificate_given(factory: Factory, certs: Certs, version: str) -> None:
    async def main() -> None:
        context = certs.server(version=version, client=ssl.CERT_REQUIRED)
        served = Recorder()
        server, address = await serve(lambda: served, ssl=context)
        await try_to_connect(address, certs.client("client", version))
        await until(lambda: served.lost, "the end")
        cert = served.transport.get_extra_info("peercert")
        assert cert["subject"] == ((("commonName", "client"),),)
        server.close()

    run(factory, main())


def test_client_certificate_optional(factory: Factory, certs: Certs) -> None:
    async def main() -> None:
        served = Recorder()
        server, address = await serve(lambda: served, ssl=certs.server(client=ssl.CERT_OPTIONAL))
        await try_to_connect(address, certs.client())
        await until(lambda: served.lost, "the end")
        assert served.transport.get_extra_info("peercert", "none") is None
        server.close()

    run(factory, main())


def test_client_certificate_missing(factory: Factory, certs: Certs, version: str) -> None:
    """In TLS 1.3 the client hears of it after its handshake, in place of data."""

    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        context = certs.server(version=version, client=ssl.CERT_REQUIRED)
        served = Recorder()
        server, address = await serve(lambda: served, ssl=context)
        client = certs.client(version=version)
        if version == "1.2":
            exc = await try_to_connect(address, client)
            assert refused(exc, "ALERT_HANDSHAKE_FAILURE"), exc
        else:
            protocol = Recorder()
            await asyncio.get_running_loop().create_connection(
                lambda: protocol, *address, ssl=client, server_hostname="localhost"
            )
            await until(lambda: protocol.lost, "the refusal")
            assert protocol.lost == [None] or refused(protocol.lost[0], "CERTIFICATE_REQUIRED")
            assert protocol.data == b""
        assert served.calls == []
        server.close()
        assert faults.contexts == []

    run(factory, main())


def test_versions_that_do_not_meet(factory: Factory, certs: Certs) -> None:
    async def main() -> None:
        server, address = await serve(Recorder, ssl=certs.server(version="1.3"))
        exc = await try_to_connect(address, certs.client(version="1.2"))
        assert refused(exc, "PROTOCOL_VERSION"), exc
        server.close()

    run(factory, main())


# ---- refusals by a peer that sends alerts --------------------------------------------------------


async def blocking_server(context: ssl.SSLContext, client: ssl.SSLContext) -> tuple[Any, Any]:
    """The client's exception or protocol, and the exception of a blocking server, if any."""
    loop = asyncio.get_running_loop()
    protocol = Recorder()
    with listening() as listener:
        accepted = asyncio.create_task(asyncio.to_thread(accept, listener, context))
        result: Any = protocol
        try:
            await loop.create_connection(
                lambda: protocol, *listener.getsockname(), ssl=client, server_hostname="localhost"
            )
        except OSError as exc:
            result = exc
        server_error = (await asyncio.gather(accepted, return_exceptions=True))[0]
    if result is protocol:
        await until(lambda: protocol.lost, "the end")
    return result, server_error


def test_alerts_that_the_client_gets(factory: Factory, certs: Certs, version: str) -> None:
    async def main() -> None:
        faults = Faults(asyncio.get_running_loop())
        context = certs.server(version=version)
        context.sni_callback = lambda *_: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME  # type: ignore
        exc, _ = await blocking_server(context, certs.client(version=version))
        assert type(exc) is ssl.SSLError and exc.reason == "TLSV1_UNRECOGNIZED_NAME"
        needs = certs.server(version=version, client=ssl.CERT_REQUIRED)
        exc, refusal = await blocking_server(needs, certs.client(version=version))
        assert refusal.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"
        if version == "1.2":
            assert type(exc) is ssl.SSLError and exc.reason == "SSLV3_ALERT_HANDSHAKE_FAILURE"
        else:  # the client's handshake is complete by then
            assert exc.calls == ["connection_made", "connection_lost"]
            assert type(exc.lost[0]) is ssl.SSLError
            assert exc.lost[0].reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
        assert faults.contexts == []

    run(factory, main())


def test_the_peer_of_a_client_that_refuses(factory: Factory, certs: Certs, version: str) -> None:
    async def main() -> None:
        context = certs.server("expired", version)
        exc, seen = await blocking_server(context, certs.client(version=version))
        assert type(exc) is ssl.SSLCertVerificationError
        assert exc.verify_code == 10 and exc.verify_message == "certificate has expired"
        # asyncio leaves out the alert.
        assert isinstance(seen, OSError)
        if "ALERT" in str(seen):
            assert "CERTIFICATE_EXPIRED" in str(seen)

    run(factory, main())


# ---- sessions, keys, messages -------------------------------------------------------------------


def test_the_server_resumes_sessions(factory: Factory, certs: Certs, version: str) -> None:
    async def main() -> None:
        served: list[Recorder] = []
        server, address = await serve(
            lambda: served.append(Echo()) or served[-1], ssl=certs.server(version=version)
        )
        context = certs.client(version=version)

        def visit(session: ssl.SSLSession | None) -> tuple[bool | None, Any]:
            with dial(address, context, session=session) as sock:
                sock.sendall(b"x")  # the answer brings the session tickets of TLS 1.3
                assert sock.recv(1) == b"x"
                result = sock.session_reused, sock.session
                sock.unwrap().close()
            return result

        reused, session = await asyncio.to_thread(visit, None)
        assert not reused
        reused, _ = await asyncio.to_thread(visit, session)
        assert reused
        await until(lambda: len(served) == 2 and served[1].lost, "the ends")
        objects = [one.transport.get_extra_info("ssl_object") for one in served]
        assert [obj.session_reused for obj in objects] == [False, True]
        server.close()

    run(factory, main())


def test_the_client_resumes_a_session_by_its_context(
    factory: Factory, certs: Certs, version: str
) -> None:
    """asyncio has no argument for a session: a context whose wrap_bio() adds it is the way."""

    class Resuming(ssl.SSLContext):
        last: ssl.SSLSession | None = None

        def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
            return super().wrap_bio(*args, session=self.last, **options)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server, address = await serve(Echo, ssl=certs.server(version=version))
        context = certs.client(version=version, kind=Resuming)
        seen = []
        for _ in range(2):
            protocol = Recorder()
            transport, _ = await loop.create_connection(
                lambda: protocol, *address, ssl=context, server_hostname="localhost"
            )
            transport.write(b"x")
            await until(lambda: protocol.data == b"x", "the echo")
            obj = transport.get_extra_info("ssl_object")
            seen.append(obj.session_reused)
            context.last = obj.session
            transport.close()
            await until(lambda: protocol.lost, "the end")
        assert seen == [False, True]
        server.close()

    run(factory, main())


def test_keylog_and_messages(factory: Factory, certs: Certs, side: str, tmp_path: Path) -> None:
    async def main() -> None:
        keys = tmp_path / "keys"
        messages: list[tuple[str, str]] = []

        def note(
            conn: Any, direction: str, version: Any, kind: Any, message: Any, data: Any
        ) -> None:
            assert type(conn) is ssl.SSLObject
            messages.append((direction, getattr(message, "name", "")))

        server, client = certs.server(version="1.3"), certs.client(version="1.3")
        watched: Any = server if side == "server" else client
        watched.keylog_filename = str(keys)
        watched._msg_callback = note
        made, address = await serve(Recorder, ssl=server)
        await try_to_connect(address, client)
        made.close()
        await made.wait_closed()
        labels = {line.split()[0] for line in keys.read_text().splitlines() if line[0] != "#"}
        assert {"CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_TRAFFIC_SECRET_0"} <= labels
        hello = "read" if side == "server" else "write"
        assert (hello, "CLIENT_HELLO") in messages
        assert {"read", "write"} == {direction for direction, _ in messages}

    run(factory, main())


@pytest.mark.skipif(sys.version_info < (3, 13), reason="PSK came with Python 3.13")
def test_a_pre_shared_key(factory: Factory, version: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server_context = only(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), version)
        client_context = only(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), version)
        for context in (server_context, client_context):
            context.set_ciphers("PSK")
        client_context.check_hostname = False
        client_context.verify_mode = ssl.CERT_NONE
        asked: list[Any] = []

        def key_for(identity: str | None) -> bytes:
            asked.append(identity)
            return b"key"

        any_server: Any = server_context
        any_client: Any = client_context
        any_server.set_psk_server_callback(key_for, "hint")
        any_client.set_psk_client_callback(lambda hint: ("me", b"key"))
        server, address = await serve(Echo, ssl=server_context)
        protocol = Recorder()
        transport, _ = await loop.create_connection(
            lambda: protocol, *address, ssl=client_context
        )
        transport.write(b"secret")
        await until(lambda: protocol.data == b"secret", "the echo")
        assert "me" in asked
        assert transport.get_extra_info("peercert") is None
        transport.close()
        await until(lambda: protocol.lost, "the end")
        server.close()

    run(factory, main())
