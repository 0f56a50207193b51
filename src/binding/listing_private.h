/* What listing.c and listing_run.c share. */
#ifndef TAUT_BINDING_LISTING_PRIVATE_H
#define TAUT_BINDING_LISTING_PRIVATE_H

#include "binding/listing.h"
#include "binding/task_current.h"

#define TAUT_LISTING_CACHE 1024

/* Something that was decoded: a place in code, or the name of a type. */
typedef struct {
    const void *of, *at; /* code and instruction; type and NULL */
    uint32_t file, name; /* in arena.text */
    int32_t line;
} taut_listing_entry;

struct taut_listing {
    taut_peek peek;
    taut_peek_pages *pages; /* NULL: out of memory, or not between begin and end */
    taut_listing_entry cache[TAUT_LISTING_CACHE];
    taut_stack arena; /* its text is the cache's */
    taut_stack stack; /* of a thread */
};

/* Of the process, since the listing was enabled. */
typedef struct {
    taut_state *st; /* NULL: not enabled */
    const void *partial;
    PyObject *others;            /* a callable: asyncio's own tasks */
    const void *interp, *tstate; /* the latter may be gone */
    int frames;                  /* those of coroutines are where they are thought to be */
    taut_task_lists lists;
} taut_listing_known;
extern taut_listing_known taut_listing_now;

/* A task of ours (all of it) or of asyncio's (out->aio, the rest 0) that is not done: 1, or 0. */
int taut_listing_read_task(taut_listing *l, const void *task, taut_task *out);
/* What it and its coroutine are called, as taut_listing_object_name. */
size_t taut_listing_title(taut_listing *l, const taut_task *t, char *to, size_t room);

static inline int taut_listing_pointer(taut_listing *l, const void *object, size_t offset,
                                       const void **out) {
    return taut_peek_read(&l->peek, (void *)out, (const char *)object + offset, sizeof *out);
}

#endif
