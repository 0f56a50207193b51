/* What the bare servers share: how they listen. */
#ifndef TAUT_BENCH_PEER_H
#define TAUT_BENCH_PEER_H

#include <stdint.h>

/* Allow as many open files as the hard limit lets us, listen on a loopback port (0: any) without
 * blocking and print "ready PORT". The listening socket; on an error the program ends with a
 * message that begins with `name`. */
int taut_peer_listen(const char *name, uint16_t port);
/* The next waiting connection, non-blocking and with TCP_NODELAY; -1 when there is none. */
int taut_peer_accept(int listen_fd);

#endif
