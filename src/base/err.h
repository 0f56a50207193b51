/* Errors of the core: an int that is 0 or negative. -errno for what the OS says, values below
 * TAUT_ERR_BASE for our own. One list yields names, messages and (in binding/err.c) exceptions. */
#ifndef TAUT_BASE_ERR_H
#define TAUT_BASE_ERR_H

typedef int taut_err;

#define TAUT_ERR_BASE (-4096)

/* X(NAME, value, message) */
#define TAUT_ERR_LIST(X)                                                                           \
    X(CLOSED, -4097, "the object is closed")                                                       \
    X(CLOSING, -4098, "the transport is closing")                                                  \
    X(EOF_WRITTEN, -4099, "write_eof() was already called")                                        \
    X(STATE, -4100, "the call does not fit the object's state")                                    \
    X(RANGE, -4101, "a number is out of range")                                                    \
    X(INTERRUPTED, -4102, "a callback of the owner asked to stop")                                 \
    X(UNSUPPORTED, -4103, "the platform does not offer this")                                      \
    X(TLS_CLOSED, -4104, "the peer has ended its side of the TLS connection")                      \
    X(TLS_FAILED, -4105, "the TLS connection failed")                                              \
    X(COLD, -4106, "the file is not in memory")

enum {
#define TAUT_ERR_ENUM(name, value, message) TAUT_E_##name = value,
    TAUT_ERR_LIST(TAUT_ERR_ENUM)
#undef TAUT_ERR_ENUM
};

/* "TAUT_E_CLOSED", "ENOENT", ...; never NULL; static storage. */
const char *taut_err_name(taut_err err);
/* A sentence without a full stop; never NULL; static storage or strerror's. */
const char *taut_err_message(taut_err err);

#endif
