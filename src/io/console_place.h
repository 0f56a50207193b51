/* Where a console listens: a Unix socket named after the process in a directory of the user's own,
 * and, if asked for, a TCP port for metrics. Any thread; the fds belong to the caller. */
#ifndef TAUT_IO_CONSOLE_PLACE_H
#define TAUT_IO_CONSOLE_PLACE_H

#include <sys/un.h>
#include "base/assert.h"

#define TAUT_CONSOLE_PATH_MAX sizeof(((struct sockaddr_un *)0)->sun_path)
#define TAUT_CONSOLE_ADDRESS_MAX 64

typedef struct {
    /* Tried in this order; "": there is none. */
    char directories[2][TAUT_CONSOLE_PATH_MAX];
    char metrics[TAUT_CONSOLE_ADDRESS_MAX]; /* "9100", "0.0.0.0:9100", "[::1]:9100"; "": none */
} taut_console_place;

/* By the environment: $XDG_RUNTIME_DIR/taut, then /tmp/taut-UID; no directory with TAUT_CONSOLE=0
 * or "off"; TAUT_METRICS_PORT. Not while another thread changes the environment. */
void taut_console_place_find(taut_console_place *place);

/* A socket that listens in `directory`, which is made (mode 0700) where it is missing, and must be
 * the user's own and no link; its path. Sockets there whose process has gone are removed. The fd or
 * a negative error. */
int taut_console_listen(const char *directory, char path[TAUT_CONSOLE_PATH_MAX]) TAUT_MUST_USE;
/* A TCP socket that listens on a port, of 127.0.0.1 unless a host is given by its number. The fd or
 * a negative error; -EINVAL: no such address. */
int taut_console_listen_tcp(const char *address) TAUT_MUST_USE;
/* Whether the peer of a Unix socket has the process's user id, or root's. */
int taut_console_peer_is_user(int fd);

#endif
