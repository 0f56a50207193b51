#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#include "binding/await.h"

#define FRAME_BYTES_MAX 144
#define STACK_MAX (1 << 20) /* values, of one frame */

static taut_frame_layout layout;
static int known;
static const void *wrappers[TAUT_AWAIT_WRAPPERS_MAX];

static const void *pointer_at(const char *bytes, size_t offset) {
    const void *p;
    memcpy(&p, bytes + offset, sizeof p);
    return p;
}

/* A value of the frame. In some versions its low bits say whether it is counted; all of them set:
 * it is a number. */
static const void *value_at(const char *bytes, size_t offset) {
    uintptr_t bits = (uintptr_t)pointer_at(bytes, offset), tag = layout.frame_code_tag;
    return tag != 0 && (bits & tag) == tag ? NULL : (const void *)(bits & ~tag);
}

/* Up to 3.12 no state says whether a suspended frame awaits, or has yielded a value of its own:
 * what it goes on with does, an instruction RESUME of which this is the argument. */
static int resumes_await(taut_peek *p, const void *instr) {
    unsigned char unit[2];
    return taut_peek_read(p, unit, (const char *)instr + sizeof unit, sizeof unit) == 0 &&
           (unit[1] & 3) >= 2;
}

/* The value on top of the stack, NULL when that is empty. */
static const void *stack_top(taut_peek *p, const char *frame, const char *bytes) {
    const char *locals = frame + layout.frame_size, *end;
    char top[sizeof end];
    if (layout.stack_is_pointer) {
        end = pointer_at(bytes, layout.frame_stack);
    } else {
        int count;
        memcpy(&count, bytes + layout.frame_stack, sizeof count);
        if (count <= 0 || count > STACK_MAX)
            return NULL;
        end = locals + (size_t)count * sizeof end;
    }
    if (end <= locals || end > locals + STACK_MAX * sizeof end)
        return NULL;
    if (p->mode == TAUT_PEEK_DIRECT)
        return value_at(end - sizeof end, 0);
    return taut_peek_read(p, top, end - sizeof end, sizeof top) < 0 ? NULL : value_at(top, 0);
}

static int has_frame(const void *type) {
    return type == &PyCoro_Type || type == &PyGen_Type || type == &PyAsyncGen_Type;
}

enum taut_await_state taut_await_read(taut_peek *p, const void *object, const void *type,
                                      taut_await *out) {
    char copy[FRAME_BYTES_MAX + 16]; /* from the state to the frame's first local */
    const char *all = (const char *)object + layout.gen_state;
    *out = (taut_await){.state = TAUT_AWAIT_NONE};
    if (!known || !has_frame(type))
        return TAUT_AWAIT_NONE;
    size_t before = (size_t)(layout.gen_frame - layout.gen_state);
    if (p->mode != TAUT_PEEK_DIRECT) {
        if (taut_peek_read(p, copy, all, before + layout.frame_size + sizeof(void *)) < 0)
            return TAUT_AWAIT_NONE;
        all = copy;
    }
    signed char state = (signed char)all[0];
    if (state > layout.gen_running)
        return out->state = TAUT_AWAIT_OVER;
    const char *bytes = all + before, *frame = (const char *)object + layout.gen_frame;
    uintptr_t code = (uintptr_t)pointer_at(bytes, layout.frame_code);
    out->frame = frame;
    out->code = (const void *)(code & ~layout.frame_code_tag);
    out->instr = pointer_at(bytes, layout.frame_instr);
    if (state == layout.gen_created)
        return out->state = TAUT_AWAIT_CREATED;
    out->first = value_at(bytes, layout.frame_size);
    if (state == layout.gen_running)
        return out->state = TAUT_AWAIT_RUNNING;
    if (state == layout.gen_awaits &&
        (!layout.gen_resume || type == &PyCoro_Type || resumes_await(p, out->instr)))
        out->awaits = stack_top(p, frame, bytes);
    return out->state = TAUT_AWAIT_SUSPENDED;
}

int taut_await_init(const void *const *types, size_t count) {
    if (!known) {
        known = taut_frame_layout_get(&layout) == 0 && layout.gen_frame >= layout.gen_state &&
                layout.frame_size + sizeof(void *) <= FRAME_BYTES_MAX &&
                layout.gen_frame - layout.gen_state <= 16;
        for (size_t i = 0; i < count && i < TAUT_AWAIT_WRAPPERS_MAX; i++)
            wrappers[i] = types[i];
    }
    return known ? 0 : -1;
}

int taut_await_is_wrapper(const void *type) {
    for (int i = 0; i < TAUT_AWAIT_WRAPPERS_MAX && wrappers[i] != NULL; i++)
        if (type == wrappers[i])
            return 1;
    return 0;
}

const void *taut_await_local(const taut_await *a, size_t i) {
    return value_at(a->frame, layout.frame_size + i * sizeof(void *));
}
