/* asyncio's streams: what a StreamReaderProtocol does with data, done here. The classes stay
 * asyncio's own, and so does all of their state; only the way from the socket to the reader's
 * buffer, and to the task that waits for it, takes neither a bytes object nor a Python call. GIL
 * held, loop thread. */
#ifndef TAUT_BINDING_STREAM_READER_H
#define TAUT_BINDING_STREAM_READER_H

#include "binding/pyloop.h"

/* Whether `protocol` is a StreamReaderProtocol, for which taut_stream_reader_feed is worth a try.
 */
static inline int taut_stream_reader_serves(const taut_state *st, PyObject *protocol) {
    return Py_TYPE(protocol) == st->streams.protocol_type;
}

/* protocol.data_received(bytes), and with it the feed_data() of its reader. 1: done; 0: nothing was
 * done, and the method must be called, since something here is not as asyncio makes it: a class, or
 * one of the two objects, is patched, or their state is such that the method raises; -1 with the
 * exception that the method would have raised. Runs no Python code of the user's. */
int taut_stream_reader_feed(taut_pyloop *lp, PyObject *protocol, const uint8_t *bytes, size_t size);

#endif
