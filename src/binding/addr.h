/* Socket addresses as the socket module shows them. GIL held. */
#ifndef TAUT_BINDING_ADDR_H
#define TAUT_BINDING_ADDR_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <sys/socket.h>

/* An internet address kept raw, until somebody asks for it. */
#define TAUT_ADDR_SIZE_MAX 28 /* sizeof(struct sockaddr_in6) */
typedef struct {
    uint32_t size; /* 0: none kept */
    uint8_t bytes[TAUT_ADDR_SIZE_MAX];
} taut_addr;

/* 1: kept; 0: it does not fit, and *a is empty. */
int taut_addr_keep(taut_addr *a, const struct sockaddr *sa, socklen_t size);
/* (host, port), (host, port, flowinfo, scope_id), or for AF_UNIX a str, or bytes for an abstract
 * name; None for another family. A new reference, or NULL with an exception set. */
PyObject *taut_addr_object(const struct sockaddr *sa, socklen_t size);
/* The raw form of (numeric host, port[, flowinfo, scope_id]) for a socket of that family. 1: done;
 * 0: something else, or not valid: for the socket module to judge. Sets no exception. */
int taut_addr_parse(PyObject *address, int family, struct sockaddr_storage *out, socklen_t *size);
/* The same for a Unix socket's path: str, or bytes. */
int taut_addr_parse_unix(PyObject *path, struct sockaddr_storage *out, socklen_t *size);
/* The kept address; None when empty. */
PyObject *taut_addr_kept_object(const taut_addr *a);

#endif
