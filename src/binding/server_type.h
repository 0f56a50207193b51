/* taut._core.Server, for its two files: server.c and server_type.c. */
#ifndef TAUT_BINDING_SERVER_TYPE_H
#define TAUT_BINDING_SERVER_TYPE_H

#include "binding/server.h"
#include "io/listener.h"

typedef struct taut_server taut_server;

/* One listening socket. It outlives the server object while its retry timer is in the heap. */
typedef struct {
    taut_listener core;
    taut_server *server; /* borrowed; NULL once closed */
    PyObject *sock;      /* owned while serving; owns the fd */
} server_socket;

struct taut_server {
    PyObject_HEAD PyObject *weaklist;
    taut_pyloop *lp;
    PyObject *sockets; /* list of socket objects; NULL once closed */
    PyObject *protocol_factory, *ssl_context, *ssl_handshake_timeout, *ssl_shutdown_timeout;
    PyObject *context;             /* protocol_factory and the connections run in it */
    PyObject *waiters;             /* list of futures of wait_closed(); NULL once woken */
    PyObject *serving_forever_fut; /* set by the Python part */
    PyObject *made_at;             /* taut_debug_made_at */
    server_socket **listeners;
    Py_ssize_t listener_count, client_count;
    taut_list clients; /* of taut_transport.server_link */
    taut_member member;
    int backlog, serving;
    int made_sockets; /* the sockets are the server's alone; set by the Python part */
};

/* Listen and accept; nothing when it does already. RuntimeError when it is closed. 0, or -1 with an
 * exception set. */
int taut_server_start(taut_server *sv);
/* What close() does: idempotent. 0, or -1 with an exception set; it is closed all the same. */
int taut_server_close(taut_server *sv);
/* One connection less; the last one of a closed server wakes those who wait for that. */
void taut_server_client_gone(taut_server *sv);

#endif
