/* The part of the module's state that TLS needs: what it takes from the ssl module. */
#ifndef TAUT_BINDING_SSL_NAMES_H
#define TAUT_BINDING_SSL_NAMES_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* X(field, attribute of the module ssl): loaded by tls_openssl.c when TLS is first used. */
#define TAUT_SSL_NAMES(X)                                                                          \
    X(context_type, "SSLContext")                                                                  \
    X(object_type, "SSLObject")                                                                    \
    X(error, "SSLError")                                                                           \
    X(certificate_error, "CertificateError")                                                       \
    X(want_read, "SSLWantReadError")                                                               \
    X(want_write, "SSLWantWriteError")                                                             \
    X(memory_bio, "MemoryBIO")

typedef struct {
#define TAUT_SSL_FIELD(f, a) PyObject *f;
    TAUT_SSL_NAMES(TAUT_SSL_FIELD)
#undef TAUT_SSL_FIELD
    int tried, usable;                /* see taut_openssl_api */
    PyObject *socket_type;            /* _ssl's own class inside an SSLObject */
    PyObject *unused_in, *unused_out; /* for wrap_bio(), until our own BIO takes their place */
} taut_ssl_names;

#endif
