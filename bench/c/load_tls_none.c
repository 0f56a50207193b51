/* In place of load_tls.c where OpenSSL's headers are missing. */
#include "load.h"

#include <errno.h>
#include <stdio.h>

int taut_load_tls_start(void) {
    fprintf(stderr, "loadgen: built without OpenSSL (libssl-dev)\n");
    return -1;
}

void taut_load_tls_end(void) {}

const char *taut_load_tls_parameters(void) {
    return "";
}

int taut_load_tls_open(taut_load_conn *c, bool complete) {
    return -1;
}

ssize_t taut_load_tls_send(taut_load_conn *c, const char *data, size_t size) {
    errno = ENOTSUP;
    return -1;
}

ssize_t taut_load_tls_recv(taut_load_conn *c, char *data, size_t size) {
    errno = ENOTSUP;
    return -1;
}

taut_load_state taut_load_tls_shake(taut_load_conn *c) {
    return TAUT_LOAD_BROKEN;
}

void taut_load_tls_close(taut_load_conn *c) {}
