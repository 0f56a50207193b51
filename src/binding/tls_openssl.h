/* The OpenSSL that Python's ssl module has loaded, and the SSL* inside an ssl.SSLObject. Nothing is
 * assumed: what is found is proven by identities, and where one does not hold the answer is "no",
 * so that the caller takes the way through MemoryBIO. GIL held. */
#ifndef TAUT_BINDING_TLS_OPENSSL_H
#define TAUT_BINDING_TLS_OPENSSL_H

#include "binding/state.h"
#include "io/tls_api.h"

/* Fills st->ssl, once. 0, or -1 with ImportError or AttributeError: a Python without ssl. */
int taut_openssl_names(taut_state *st);

/* The functions, looked up at the first call; valid as long as the process. NULL without an
 * exception: this Python's libssl cannot be reached (linked statically, or unknown to us), or the
 * environment says TAUT_TLS=memory. */
const taut_tls_api *taut_openssl_api(taut_state *st);

/* The SSL* of `sslobject`, which context.wrap_bio() has just made, so that SNI has not replaced its
 * context yet. It belongs to the object and is valid as long as that. NULL without an exception
 * when any check fails: another class of object, a context that wraps another one, another libssl.
 */
void *taut_openssl_connection(taut_state *st, const taut_tls_api *api, PyObject *sslobject,
                              PyObject *context);

#endif
