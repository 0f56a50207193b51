/* taut._core.Server: the C part of taut.server.Server. Accepts in C; a connection without TLS costs
 * no Python but protocol_factory() and connection_made(). GIL held, loop thread. */
#ifndef TAUT_BINDING_SERVER_H
#define TAUT_BINDING_SERVER_H

#include "binding/transport.h"

/* The transport becomes, and stops being, one of the server's connections. `server` is a
 * taut._core.Server or anything with asyncio's _attach and _detach. 0, or -1 with an exception. */
int taut_server_attach(PyObject *server, taut_transport *t);
int taut_server_detach(PyObject *server, taut_transport *t);

#endif
