/* A thread's Python stack, taken without the GIL: the frames are read as memory (io/peek.h), names
 * and line tables are copied and decoded here. No Python call, no Python allocation, no lock; fixed
 * memory. Anything may be stale while it is read: what does not look right ends the walk. */
#ifndef TAUT_BINDING_FRAMES_H
#define TAUT_BINDING_FRAMES_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "io/peek.h"

#define TAUT_STACK_FRAMES_MAX 96
#define TAUT_STACK_TEXT_MAX (24 * 1024)
#define TAUT_STACK_NONE UINT32_MAX

enum taut_stack_how {
    TAUT_STACK_FAILED = 0,
    TAUT_STACK_STABLE = 1,      /* the same chain of frames was read twice */
    TAUT_STACK_APPROXIMATE = 2, /* bytecode kept running: the innermost line is a moment's */
    TAUT_STACK_GIL = 3,         /* taken with the GIL, maybe after the fact */
};

typedef struct {
    uint32_t file; /* offsets of NUL-terminated UTF-8 in taut_stack.text */
    uint32_t name; /* the qualified name */
    int32_t line;  /* the function's first when the table has none for this instruction */
    int flags;     /* of the code: CO_COROUTINE, ... */
} taut_frame;

typedef struct {
    enum taut_stack_how how;
    enum taut_peek_mode mode;
    uint32_t count;     /* of `frames`, innermost first */
    uint32_t omitted;   /* outer frames beyond TAUT_STACK_FRAMES_MAX */
    uint32_t torn;      /* reads that did not match the one before */
    int wanted_seen;    /* the wanted frame is somewhere in the chain ... */
    uint32_t wanted_at; /* ... here in `frames`; `count` when it is not among those */
    /* The innermost frame that the interpreter called as the handler of a signal: its arguments are
     * a signal's number and the frame that it interrupted. TAUT_STACK_NONE: there is none. */
    uint32_t signal_at;
    int leaf_jumps;        /* frames[0] has last gone back in a loop: no call into C */
    const void *leaf_code; /* of frames[0]; to be read as memory */
    uint32_t text_size;
    taut_frame frames[TAUT_STACK_FRAMES_MAX];
    char text[TAUT_STACK_TEXT_MAX];
} taut_stack;

/* A frame to look for: what is NULL matches anything, all NULL matches nothing. */
typedef struct {
    const void *frame, *code, *instr;
} taut_frame_id;

/* What differs between CPython versions: offsets into PyThreadState and the interpreter's frames.
 * One function per version, in frames_3NN.c; each is only compiled for its own. */
typedef struct {
    int8_t gen_created, gen_running; /* states of a generator */
    int8_t gen_awaits;     /* the state of one that awaits, or is suspended in any way: then ... */
    int8_t gen_resume;     /* ... the argument of the next instruction says which */
    uint16_t tstate_frame; /* of the current frame's pointer, or of the cframe's */
    uint16_t tstate_native_id;
    int16_t cframe_frame; /* in the cframe, or -1 when there is none in between */
    uint16_t frame_size, frame_code, frame_previous, frame_instr, frame_owner;
    uintptr_t frame_code_tag; /* bits of the code's pointer that are none of its */
    int16_t owner_generator;
    int16_t owner_skip; /* from this owner on, frames are the interpreter's own; -1: none is */
    /* In a coroutine or generator: its state (int8_t) and its frame; in that frame the stack's top,
     * as an int that counts from frame_size on, or as a pointer. */
    uint16_t gen_state, gen_frame, frame_stack;
    int16_t stack_is_pointer;
    uint16_t object_frame; /* of the frame's pointer in a frame object */
    const void *gil;       /* the interpreter's lock */
    uint16_t gil_size, gil_holder, gil_locked;
} taut_frame_layout;
/* With the GIL. 0, or -1 when the running interpreter does not match the headers we were built
 * with. */
int taut_frame_layout_get(taut_frame_layout *out);
/* As it is after taut_frames_init; NULL when no walk is possible. */
const taut_frame_layout *taut_frames_layout(void);

/* Once, with the GIL: checks the layout by walking the calling thread itself. 0, or -1 when the
 * walk is not possible in this interpreter or on this kernel (no exception is set). */
int taut_frames_init(void);

/* On the very thread of `tstate`, GIL or not: the frame that calls into C now. All NULL when it
 * cannot be known. */
taut_frame_id taut_frames_current(const void *tstate);
/* On that thread, while `frame` stands: the one that called it. */
taut_frame_id taut_frames_outer(const void *frame);
/* Any thread, without the GIL. `tstate`: a PyThreadState, which may be stale: it must carry
 * `native_id` as its thread's id. 0 with `out` filled; TAUT_FRAMES_NONE: the thread is gone or runs
 * no Python; TAUT_FRAMES_REFUSED: no walk is possible in this process. */
int taut_frames_walk(const void *tstate, pid_t native_id, taut_frame_id wanted, taut_stack *out);
/* With the GIL. The same through the interpreter's own interface; only `wanted.code` counts. */
int taut_frames_walk_gil(void *tstate, taut_frame_id wanted, taut_stack *out);
/* Without the GIL: appends a str to out->text, as UTF-8 and at most chars_max characters of it. 0,
 * or -1 when it is no str or there is no room. */
int taut_frames_copy_str(taut_peek *p, const void *object, size_t chars_max, taut_stack *out,
                         uint32_t *offset);
/* Without the GIL: whether the code of the innermost frame mentions this name, as `gc.collect()`
 * does "collect". */
int taut_frames_leaf_mentions(const taut_stack *s, const char *name);
/* Without the GIL: the place that an instruction of a code object (its index) stands for, as text
 * in out->text. 0, or -1. */
int taut_frames_place(taut_peek *p, const void *code, int unit, taut_stack *out, taut_frame *place);
/* Appends a text; its offset. Where there is no room it is empty. */
uint32_t taut_frames_put_text(taut_stack *out, const char *text);
#define TAUT_FRAMES_NONE (-1)
#define TAUT_FRAMES_REFUSED (-2)

#endif
