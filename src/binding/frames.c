#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <opcode.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "binding/frames_code.h"

#define DEPTH_MAX 4096 /* of a walk; a longer chain is taken for a loop in stale memory */
#define RETRIES_MAX 5
/* A chain that changes while it is read often leads to nothing, or ends early: a generator that is
 * about to run, or has just yielded, has no caller for a moment. */
#define READS_MAX 40
#define FRAME_BYTES_MAX 128

static taut_frame_layout layout;
static int layout_ok;

#if PY_VERSION_HEX >= 0x030F0000
/* The frames of this version are not known here: the doctor uses the GIL. */
int taut_frame_layout_get(taut_frame_layout *out) {
    return -1;
}
#endif

/* One frame as it stands in memory, before anything is decoded. */
typedef struct {
    const char *frame, *code, *instr;
    char owner;
} raw_frame;

typedef struct {
    uint32_t depth;     /* all frames; the innermost TAUT_STACK_FRAMES_MAX are in `at` */
    uint32_t wanted_at; /* TAUT_STACK_NONE: not seen */
    raw_frame at[TAUT_STACK_FRAMES_MAX];
} chain;

static const void *pointer_at(const void *bytes, size_t offset) {
    const void *p;
    memcpy(&p, (const char *)bytes + offset, sizeof p);
    return p;
}

/* The code object of a frame's bytes. */
static const void *code_at(const void *bytes) {
    uintptr_t bits;
    memcpy(&bits, (const char *)bytes + layout.frame_code, sizeof bits);
    return (const void *)(bits & ~layout.frame_code_tag);
}

static int is_internal(char owner) {
    return layout.owner_skip >= 0 && owner >= layout.owner_skip;
}

static int read_current_frame(taut_peek *p, const char *tstate, pid_t native_id, const void **out) {
    unsigned long id = 0;
    if (taut_peek_read(p, &id, tstate + layout.tstate_native_id, sizeof id) < 0 ||
        id != (unsigned long)native_id ||
        taut_peek_read(p, out, tstate + layout.tstate_frame, sizeof *out) < 0)
        return -1;
    if (layout.cframe_frame < 0)
        return 0;
    return taut_peek_read(p, out, (const char *)*out + layout.cframe_frame, sizeof *out);
}

static int wants(const taut_frame_id *id) {
    return id->frame != NULL || id->code != NULL;
}

static int is_wanted(const raw_frame *f, const taut_frame_id *id) {
    return wants(id) && (id->frame == NULL || id->frame == f->frame) &&
           (id->code == NULL || id->code == f->code) &&
           (id->instr == NULL || id->instr == f->instr);
}

static int read_chain(taut_peek *p, const void *tstate, pid_t native_id, taut_frame_id wanted,
                      chain *out) {
    const void *frame;
    char bytes[FRAME_BYTES_MAX];
    out->depth = 0;
    out->wanted_at = TAUT_STACK_NONE;
    if (read_current_frame(p, tstate, native_id, &frame) < 0)
        return -1;
    for (int steps = 0; frame != NULL; steps++) {
        if (steps == DEPTH_MAX || taut_peek_read(p, bytes, frame, layout.frame_size) < 0)
            return -1;
        raw_frame f = {.frame = frame,
                       .code = code_at(bytes),
                       .instr = pointer_at(bytes, layout.frame_instr),
                       .owner = bytes[layout.frame_owner]};
        frame = pointer_at(bytes, layout.frame_previous);
        if (is_internal(f.owner))
            continue;
        if (out->depth < TAUT_STACK_FRAMES_MAX)
            out->at[out->depth] = f;
        if (out->wanted_at == TAUT_STACK_NONE && is_wanted(&f, &wanted))
            out->wanted_at = out->depth;
        out->depth++;
    }
    return 0;
}

static uint32_t chain_kept(const chain *c) {
    return c->depth < TAUT_STACK_FRAMES_MAX ? c->depth : TAUT_STACK_FRAMES_MAX;
}

static int same_frame(const raw_frame *a, const raw_frame *b) {
    return a->frame == b->frame && a->code == b->code && a->instr == b->instr &&
           a->owner == b->owner;
}

static int same_chain(const chain *a, const chain *b) {
    if (a->depth != b->depth)
        return 0;
    for (uint32_t i = 0; i < chain_kept(a); i++)
        if (!same_frame(&a->at[i], &b->at[i]))
            return 0;
    return 1;
}

/* How many frames from the root on are the same in both: those were suspended in a call all the
 * time. The next frame, if it is the same call at another instruction, counts as well: it is the
 * one that runs. Chains too deep to be kept whole are aligned by their depth. */
static uint32_t stable_frames(const chain *a, const chain *b) {
    uint32_t n = 0, max = a->depth < b->depth ? a->depth : b->depth;
    for (; n < max; n++) {
        uint32_t i = a->depth - 1 - n, j = b->depth - 1 - n;
        if (i >= TAUT_STACK_FRAMES_MAX || j >= TAUT_STACK_FRAMES_MAX)
            continue;
        if (a->at[i].frame != b->at[j].frame || a->at[i].code != b->at[j].code)
            return n;
        if (a->at[i].instr != b->at[j].instr)
            return n + 1;
    }
    return n;
}

static int type_is(taut_peek *p, const void *object, const PyTypeObject *type) {
    const void *got;
    return object != NULL &&
           taut_peek_read(p, &got, (const char *)object + offsetof(PyObject, ob_type),
                          sizeof got) == 0 &&
           got == (const void *)type;
}

/* Whether this is a frame object of the frame `of`. */
static int is_frame_object(taut_peek *p, const void *object, const void *of) {
    const void *frame;
    return type_is(p, object, &PyFrame_Type) &&
           taut_peek_read(p, &frame, (const char *)object + layout.object_frame, sizeof frame) ==
               0 &&
           frame == of;
}

static const void *untagged(const void *slot) {
    return (const void *)((uintptr_t)slot & ~layout.frame_code_tag);
}

/* Handlers are called with (number, frame), methods with self before that; or with *args. */
static int is_signal_handler(taut_peek *p, const raw_frame *f, const raw_frame *below,
                             const PyCodeObject *code) {
    const void *slots[3] = {NULL}, *pair[2];
    int args = code->co_argcount, starred = (code->co_flags & CO_VARARGS) != 0;
    int count = args + code->co_kwonlyargcount + starred;
    if (args > 3 || count > 3 || (args < 2 && !starred) ||
        taut_peek_read(p, slots, f->frame + layout.frame_size, (size_t)count * sizeof *slots) < 0)
        return 0;
    for (int i = 0; i + 1 < args; i++)
        if (is_frame_object(p, untagged(slots[i + 1]), below->frame))
            return type_is(p, untagged(slots[i]), &PyLong_Type);
    if (!starred || args > 1)
        return 0;
    const char *tuple = untagged(slots[count - 1]);
    return type_is(p, tuple, &PyTuple_Type) &&
           taut_peek_read(p, pair, tuple + offsetof(PyTupleObject, ob_item), sizeof pair) == 0 &&
           is_frame_object(p, pair[1], below->frame) && type_is(p, pair[0], &PyLong_Type);
}

static int is_jump_back(taut_peek *p, const void *instr) {
    unsigned char op;
    if (taut_peek_read(p, &op, instr, 1) < 0)
        return 0;
#if PY_VERSION_HEX < 0x030C0000
    if (op == JUMP_BACKWARD_QUICK)
        return 1;
#elif PY_VERSION_HEX >= 0x030E0000
    if (op == JUMP_BACKWARD_NO_JIT || op == JUMP_BACKWARD_JIT)
        return 1;
#endif
    return op == JUMP_BACKWARD;
}

/* 1: decoded to s->frames[s->count]; 0: not a frame that Python shows; -1: not a frame at all.
 * `below`: the next outer frame, or NULL. */
static int decode(taut_peek *p, const raw_frame *f, const raw_frame *below, taut_stack *s) {
    taut_code_head u;
    if (taut_code_read(p, f->code, &u) < 0)
        return -1;
    Py_ssize_t unit = (f->instr - (f->code + TAUT_CODE_HEAD)) / 2;
    if (unit < -1 || unit >= Py_SIZE(&u.code))
        return -1;
    if (f->owner != layout.owner_generator && unit < u.code._co_firsttraceable)
        return 0; /* still being set up, or a shim of the interpreter's own */
    if (taut_code_place(p, &u.code, unit, s, &s->frames[s->count]) < 0)
        return -1;
    if (s->signal_at == TAUT_STACK_NONE && below != NULL && is_signal_handler(p, f, below, &u.code))
        s->signal_at = s->count;
    if (s->count == 0) {
        s->leaf_code = f->code;
        s->leaf_jumps = is_jump_back(p, f->instr);
    }
    return 1;
}

static void stack_reset(taut_stack *s) {
    memset(s, 0, offsetof(taut_stack, frames));
    s->signal_at = TAUT_STACK_NONE;
    s->text[0] = '\0';
    s->text_size = 1; /* offset 0 is the empty text */
}

/* Decodes the frames of `c` from `first` (0: the innermost) on. */
static void decode_chain(taut_peek *p, const chain *c, uint32_t first, taut_stack *s) {
    s->wanted_seen = c->wanted_at != TAUT_STACK_NONE;
    s->wanted_at = TAUT_STACK_NONE;
    for (uint32_t i = first; i < chain_kept(c); i++) {
        uint32_t text_size = s->text_size;
        if (i == c->wanted_at)
            s->wanted_at = s->count;
        int rc = decode(p, &c->at[i], i + 1 < chain_kept(c) ? &c->at[i + 1] : NULL, s);
        if (rc > 0) {
            s->count++;
            continue;
        }
        s->text_size = text_size;
        if (rc < 0)
            s->omitted++;
    }
    s->omitted += c->depth - chain_kept(c);
    if (s->wanted_at > s->count)
        s->wanted_at = s->count;
}

int taut_frames_walk(const void *tstate, pid_t native_id, taut_frame_id wanted, taut_stack *out) {
    taut_peek p;
    chain a, b, *old = &a, *now = &b;
    stack_reset(out);
    if (!layout_ok || taut_peek_begin(&p, TAUT_PEEK_VM) < 0)
        return TAUT_FRAMES_REFUSED;
    out->mode = p.mode;
    int have = 0, stable = 0, whole = 0, ok = 0;
    for (int i = 0; i < READS_MAX && out->torn <= RETRIES_MAX && !stable; i++) {
        ok = read_chain(&p, tstate, native_id, wanted, now) == 0;
        whole = ok && (!wants(&wanted) || now->wanted_at != TAUT_STACK_NONE);
        stable = have && whole && same_chain(old, now);
        out->torn += have && whole && !stable;
        have = whole ? have + 1 : 0;
        if (!stable) {
            chain *swap = old;
            old = now;
            now = swap;
        }
    }
    /* Unless stable, `old` is the newer one after the last swap. */
    if (stable) {
        out->how = TAUT_STACK_STABLE;
        decode_chain(&p, now, 0, out);
    } else if (have > 1) { /* two good reads in a row, for what they have in common */
        uint32_t n = stable_frames(now, old);
        out->how = TAUT_STACK_APPROXIMATE;
        decode_chain(&p, old, old->depth - n, out);
    } else if (ok) { /* as it stands: the wanted frame is not there, as far as can be seen */
        out->how = TAUT_STACK_APPROXIMATE;
        decode_chain(&p, old, 0, out);
    }
    taut_peek_end(&p);
    return out->count > 0 ? 0 : TAUT_FRAMES_NONE;
}

/* `frame`, or the first outer one that is not the interpreter's own. */
static taut_frame_id shown_from(const void *frame) {
    while (frame != NULL && is_internal(((const char *)frame)[layout.frame_owner]))
        frame = pointer_at(frame, layout.frame_previous);
    if (frame == NULL)
        return (taut_frame_id){NULL};
    return (taut_frame_id){
        .frame = frame, .code = code_at(frame), .instr = pointer_at(frame, layout.frame_instr)};
}

taut_frame_id taut_frames_current(const void *tstate) {
    const void *frame;
    if (!layout_ok || tstate == NULL)
        return (taut_frame_id){NULL};
    frame = pointer_at(tstate, layout.tstate_frame);
    if (layout.cframe_frame >= 0)
        frame = pointer_at(frame, (size_t)layout.cframe_frame);
    return shown_from(frame);
}

taut_frame_id taut_frames_outer(const void *frame) {
    return shown_from(pointer_at(frame, layout.frame_previous));
}

static int thread_is_known(const PyThreadState *tstate) {
    PyThreadState *t = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
    while (t != NULL && t != tstate)
        t = PyThreadState_Next(t);
    return t != NULL;
}

static void put_gil_frame(taut_stack *s, PyFrameObject *f, PyCodeObject *code) {
    taut_frame *out = &s->frames[s->count];
    const char *file = PyUnicode_AsUTF8(code->co_filename);
    const char *name = PyUnicode_AsUTF8(code->co_qualname);
    if (file == NULL || name == NULL)
        PyErr_Clear();
    out->file = taut_frames_put_text(s, file != NULL ? file : "?");
    out->name = taut_frames_put_text(s, name != NULL ? name : "?");
    out->line = PyFrame_GetLineNumber(f);
    out->flags = code->co_flags;
    s->count++;
}

int taut_frames_walk_gil(void *tstate, taut_frame_id wanted, taut_stack *out) {
    uint32_t wanted_at = TAUT_STACK_NONE, depth = 0;
    stack_reset(out);
    if (!thread_is_known(tstate))
        return TAUT_FRAMES_NONE;
    PyFrameObject *f = PyThreadState_GetFrame(tstate);
    while (f != NULL) {
        PyCodeObject *code = PyFrame_GetCode(f);
        if (wanted_at == TAUT_STACK_NONE && wanted.code != NULL &&
            wanted.code == (const void *)code)
            wanted_at = depth;
        depth++;
        if (out->count < TAUT_STACK_FRAMES_MAX)
            put_gil_frame(out, f, code);
        else
            out->omitted++;
        Py_DECREF(code);
        PyFrameObject *back = PyFrame_GetBack(f);
        Py_DECREF(f);
        f = back;
    }
    out->how = TAUT_STACK_GIL;
    out->wanted_seen = wanted_at != TAUT_STACK_NONE;
    out->wanted_at = wanted_at < out->count ? wanted_at : out->count;
    return out->count > 0 ? 0 : TAUT_FRAMES_NONE;
}

/* The walk of this very thread must say what the interpreter says. */
static int walk_is_right(void) {
    static taut_stack mine, theirs; /* with the GIL, and too big for a thread's stack */
    PyThreadState *tstate = PyThreadState_Get();
    if (taut_frames_walk_gil(tstate, (taut_frame_id){NULL}, &theirs) < 0)
        return 1; /* called from C with no Python frame: nothing to compare */
    if (taut_frames_walk(tstate, (pid_t)syscall(SYS_gettid), (taut_frame_id){NULL}, &mine) < 0 ||
        mine.how != TAUT_STACK_STABLE || mine.count != theirs.count)
        return 0;
    for (uint32_t i = 0; i < mine.count; i++) {
        const taut_frame *a = &mine.frames[i], *b = &theirs.frames[i];
        if (a->line != b->line || strncmp(mine.text + a->name, theirs.text + b->name, 64) != 0)
            return 0;
    }
    return 1;
}

/* We hold the lock now. */
static int gil_is_right(void) {
    int locked;
    if (layout.gil == NULL)
        return 0;
    memcpy(&locked, (const char *)layout.gil + layout.gil_locked, sizeof locked);
    return locked == 1 && pointer_at(layout.gil, layout.gil_holder) == PyThreadState_Get();
}

int taut_frames_init(void) {
    if (layout_ok)
        return 0;
    if (taut_frame_layout_get(&layout) < 0 || layout.frame_size > FRAME_BYTES_MAX)
        return -1;
    if (!gil_is_right())
        layout.gil = NULL;
    layout_ok = 1;
    layout_ok = walk_is_right();
    return layout_ok ? 0 : -1;
}

const taut_frame_layout *taut_frames_layout(void) {
    return layout_ok ? &layout : NULL;
}
