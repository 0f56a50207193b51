/* The part of the module's state that belongs to asyncio's streams; see stream_reader.h. */
#ifndef TAUT_BINDING_STREAM_NAMES_H
#define TAUT_BINDING_STREAM_NAMES_H

#include "binding/attrs.h"

/* The functions of asyncio.streams whose work is done in C. */
enum {
    TAUT_STREAM_DATA_RECEIVED,
    TAUT_STREAM_GET_READER,
    TAUT_STREAM_FEED_DATA,
    TAUT_STREAM_WAKE_UP,
    TAUT_STREAM_FUNCTIONS,
};

typedef struct {
    PyTypeObject *protocol_type, *reader_type; /* NULL: they are not those that are known */
    PyObject *reader_property;                 /* StreamReaderProtocol._stream_reader */
    PyObject *functions[TAUT_STREAM_FUNCTIONS], *codes[TAUT_STREAM_FUNCTIONS];
    /* The classes' versions when they were found to be as asyncio made them; 0: to be looked at. */
    unsigned protocol_version, reader_version;
    taut_attrs protocol, reader; /* where their attributes are */
} taut_stream_names;

#endif
