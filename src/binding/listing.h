/* Tasks as JSON: name, state, where each was made, the chain of its coroutines' frames, what it
 * waits for and whom its end wakes. All of it is read as memory, in one of two ways: directly, with
 * the GIL, while the loops live; or by io/peek.h, without it, while a loop is blocked. */
#ifndef TAUT_BINDING_LISTING_H
#define TAUT_BINDING_LISTING_H

#include "base/json_out.h"
#include "binding/frames.h"
#include "binding/state.h"

/* Whether listings are possible: python/taut/_listing.py has said what they need to know. */
int taut_listing_enabled(void);

typedef struct {
    const void *tstate;
    pid_t native_id;
} taut_listing_thread;
#define TAUT_LISTING_THREADS_MAX 128

/* One listing under way. One thread at a time. */
typedef struct taut_listing taut_listing;
/* NULL when memory is out. */
taut_listing *taut_listing_new(void);
void taut_listing_free(taut_listing *l);
/* Around any number of the calls below: `direct` with the GIL, for as long as it is held; else by
 * whatever the kernel permits: 0, or TAUT_E_UNSUPPORTED. */
int taut_listing_begin(taut_listing *l, int direct) TAUT_MUST_USE;
void taut_listing_end(taut_listing *l);
/* One task, of taut's own or of asyncio's, as an object. 1; 0: it is done, or no task. */
int taut_listing_task(taut_listing *l, taut_json_out *w, const void *task);
/* The frames of a coroutine as an array, outermost first. */
void taut_listing_frames(taut_listing *l, taut_json_out *w, const void *coroutine);
/* Names alone, cut at `room` bytes and not terminated; how many, 0: it has none. Of a code object
 * (the function's) or a type; and a place in code as "FILE:LINE in FUNCTION". */
size_t taut_listing_object_name(taut_listing *l, const void *object, char *to, size_t room);
size_t taut_listing_place_name(taut_listing *l, const void *code, int unit, char *to, size_t room);
/* Not `direct`: all tasks there are, as the members of an array that is open. 1, or 0: the lists
 * changed meanwhile, or were too long, and some may be missing. */
int taut_listing_tasks(taut_listing *l, taut_json_out *w);
/* Not `direct`: the interpreter's threads. How many. */
size_t taut_listing_threads(taut_listing *l, taut_listing_thread out[TAUT_LISTING_THREADS_MAX]);
/* Their stacks as an array. */
void taut_listing_stacks(taut_listing *l, taut_json_out *w);

/* With the GIL: the tasks there are now, to be listed in slices; asyncio's own among them. */
typedef struct {
    PyObject **tasks; /* owned */
    size_t count, next;
    int complete;
} taut_listing_snapshot;
/* 0, or -1 when memory is out, with the snapshot empty. No exception is set. */
int taut_listing_take(taut_listing_snapshot *s);
/* Lists until `until_ns`, and lets go of what it has listed, which may run finalizers. 1: there are
 * more. */
int taut_listing_slice(taut_listing *l, taut_json_out *w, taut_listing_snapshot *s,
                       uint64_t until_ns);
/* Lets go of the rest. */
void taut_listing_drop(taut_listing_snapshot *s);
/* The pending task at that address, a new reference, when it has this name (NULL: any); else NULL
 * without an exception. */
PyObject *taut_listing_find(const void *address, const char *name);

#endif
