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

/* A class, and what was found when it was last looked at. */
typedef struct {
    PyTypeObject *type; /* NULL: it is not the one that is known */
    unsigned version;   /* of its attributes; 0: not looked at */
    int is_plain;       /* it was as asyncio makes it */
    taut_attrs attrs;   /* where its instances have theirs */
} taut_stream_class;

typedef struct {
    taut_stream_class protocol, reader;
    PyObject *reader_property; /* StreamReaderProtocol._stream_reader */
    PyObject *functions[TAUT_STREAM_FUNCTIONS], *codes[TAUT_STREAM_FUNCTIONS];
} taut_stream_names;

#endif
