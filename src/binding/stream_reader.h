/* asyncio's streams: what a StreamReaderProtocol does with data, done here. The classes stay
 * asyncio's own, and so does all of their state; only the way from the socket to the reader's
 * buffer, and to the task that waits for it, takes neither a bytes object nor a Python call. GIL
 * held, loop thread. */
#ifndef TAUT_BINDING_STREAM_READER_H
#define TAUT_BINDING_STREAM_READER_H

#include "binding/compat.h"
#include "binding/pyloop.h"

/* Whether `protocol` is a StreamReaderProtocol, for which taut_stream_reader_feed is worth a try;
 * then its transport, which has its dictionary at `dict`, is ready for a StreamWriter. -1 with an
 * exception. */
static inline int taut_stream_reader_serves(const taut_state *st, PyObject *protocol,
                                            PyObject **dict) {
    if (Py_TYPE(protocol) != st->streams.protocol.type)
        return 0;
    /* Up to 3.11 bytecode remembers where it has found a method of an object that may have a
     * dictionary only if it has one. */
    if (PY_VERSION_HEX < 0x030C0000 && *dict == NULL && (*dict = PyDict_New()) == NULL)
        return -1;
    return 1;
}

/* protocol.data_received(bytes), and with it the feed_data() of its reader. 1: done; 0: nothing was
 * done, and the method must be called, since something here is not as asyncio makes it: a class, or
 * one of the two objects, is patched, or their state is such that the method raises; -1 with the
 * exception that the method would have raised. Runs no Python code of the user's. */
int taut_stream_reader_feed(taut_pyloop *lp, PyObject *protocol, const uint8_t *bytes, size_t size);

#endif
