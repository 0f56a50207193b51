/* Finding the functions and objects of Python's own OpenSSL. */
#include "binding/tls_openssl.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "binding/compat.h"
#include "io/tls.h"

/* Heads of CPython's PySSLSocket and PySSLContext (Modules/_ssl.c), the same in 3.11 to 3.14.
 * taut_openssl_connection proves them for each connection. */
typedef struct {
    PyObject_HEAD PyObject *socket;
    void *ssl;
    PyObject *context;
} ssl_socket_layout;
typedef struct {
    PyObject_HEAD void *ctx;
} ssl_context_layout;
#define LAYOUT_KNOWN (PY_VERSION_HEX < 0x030F0000)

#define APP_DATA_INDEX 0 /* of SSL_set_app_data: where _ssl keeps its object */

static taut_tls_api the_api;

/* A handle whose symbols are those that _ssl itself uses: its dependencies are searched, too. NULL
 * with or without an exception. */
static void *open_loaded(void) {
    PyObject *module = PyImport_ImportModule("_ssl");
    PyObject *file = module != NULL ? PyObject_GetAttrString(module, "__file__") : NULL;
    Py_XDECREF(module);
    const char *path = file != NULL && PyUnicode_Check(file) ? PyUnicode_AsUTF8(file) : NULL;
    void *library = path != NULL ? dlopen(path, RTLD_LAZY | RTLD_NOLOAD) : NULL;
    Py_XDECREF(file);
    return library;
}

int taut_openssl_names(taut_state *st) {
    taut_ssl_names *names = &st->ssl;
    if (names->unused_out != NULL)
        return 0;
    PyObject *outer = PyImport_ImportModule("ssl");
    PyObject *inner = outer != NULL ? PyImport_ImportModule("_ssl") : NULL;
    if (inner == NULL)
        goto done;
#define TAUT_SSL_LOAD(f, a)                                                                        \
    Py_XSETREF(names->f, PyObject_GetAttrString(outer, a));                                        \
    if (names->f == NULL)                                                                          \
        goto done;
    TAUT_SSL_NAMES(TAUT_SSL_LOAD)
#undef TAUT_SSL_LOAD
    Py_XSETREF(names->socket_type, PyObject_GetAttrString(inner, "_SSLSocket"));
    Py_XSETREF(names->unused_in, PyObject_CallNoArgs(names->memory_bio));
    if (names->socket_type != NULL && names->unused_in != NULL)
        names->unused_out = PyObject_CallNoArgs(names->memory_bio);
done:
    Py_XDECREF(outer);
    Py_XDECREF(inner);
    return names->unused_out == NULL ? -1 : 0;
}

static int find_functions(void *library, taut_tls_api *api) {
#define TAUT_TLS_FIND(result, name, arguments)                                                     \
    {                                                                                              \
        void *symbol = dlsym(library, #name);                                                      \
        if (symbol == NULL)                                                                        \
            return 0;                                                                              \
        memcpy(&api->name, &symbol, sizeof symbol);                                                \
    }
    TAUT_TLS_FUNCTIONS(TAUT_TLS_FIND)
#undef TAUT_TLS_FIND
    return 1;
}

/* TAUT_TLS=memory: the way out, should direct access ever be at fault. */
static int direct_wanted(void) {
    const char *wanted = getenv("TAUT_TLS");
    return LAYOUT_KNOWN && (wanted == NULL || strcmp(wanted, "memory") != 0);
}

const taut_tls_api *taut_openssl_api(taut_state *st) {
    if (st->ssl.tried)
        return st->ssl.usable ? &the_api : NULL;
    st->ssl.tried = 1;
    void *library = direct_wanted() && taut_openssl_names(st) == 0 ? open_loaded() : NULL;
    if (library == NULL)
        PyErr_Clear(); /* a Python without the module, or one that we do not know */
    else if (the_api.bio_method != NULL ||
             (find_functions(library, &the_api) && taut_tls_api_init(&the_api) == 0))
        st->ssl.usable = 1; /* the library stays open: it is used from now on */
    else
        dlclose(library);
    return st->ssl.usable ? &the_api : NULL;
}

static int is_instance(PyObject *object, PyObject *type) {
    return PyObject_TypeCheck(object, (PyTypeObject *)type);
}

static int method_is_ours(const taut_tls_api *api, const void *ctx) {
    const void *method = api->SSL_CTX_get_ssl_method(ctx);
    return method == api->TLS_method() || method == api->TLS_client_method() ||
           method == api->TLS_server_method();
}

/* Borrowed from the object, which keeps it. */
static PyObject *inner_of(taut_state *st, PyObject *sslobject) {
    PyObject *inner = PyObject_GetAttr(sslobject, st->str__sslobj);
    if (inner == NULL) {
        PyErr_Clear();
        return NULL;
    }
    Py_DECREF(inner);
    return is_instance(inner, st->ssl.socket_type) ? inner : NULL;
}

void *taut_openssl_connection(taut_state *st, const taut_tls_api *api, PyObject *sslobject,
                              PyObject *context) {
    if (!is_instance(sslobject, st->ssl.object_type) || !is_instance(context, st->ssl.context_type))
        return NULL;
    PyObject *inner = inner_of(st, sslobject);
    if (inner == NULL || Py_TYPE(inner)->tp_basicsize < (Py_ssize_t)sizeof(ssl_socket_layout) ||
        Py_TYPE(context)->tp_basicsize < (Py_ssize_t)sizeof(ssl_context_layout))
        return NULL;
    const ssl_socket_layout *socket = (const ssl_socket_layout *)inner;
    const ssl_context_layout *known = (const ssl_context_layout *)context;
    /* The first identity makes the second pointer believable before it is followed. */
    if (socket->context != context || socket->ssl == NULL || known->ctx == NULL ||
        !method_is_ours(api, known->ctx) || api->SSL_get_SSL_CTX(socket->ssl) != known->ctx ||
        api->SSL_get_ex_data(socket->ssl, APP_DATA_INDEX) != inner)
        return NULL;
    return socket->ssl;
}
