#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#include "binding/await.h"

#define FRAME_BYTES_MAX 144
#define STACK_MAX (1 << 20) /* values, of one frame */
#define REF_TAG ((uintptr_t)3)

static const void *pointer_at(const char *bytes, size_t offset) {
    const void *p;
    memcpy(&p, bytes + offset, sizeof p);
    return p;
}

/* A value of the frame; in some versions its low bits say whether it is counted. */
static const void *value_at(const char *bytes, size_t offset) {
    return (const void *)((uintptr_t)pointer_at(bytes, offset) & ~REF_TAG);
}

/* Up to 3.12 no state says whether a suspended frame awaits, or has yielded a value of its own:
 * what it goes on with does, an instruction RESUME of which this is the argument. */
static int resumes_await(taut_peek *p, const void *instr) {
    unsigned char unit[2];
    return taut_peek_read(p, unit, (const char *)instr + sizeof unit, sizeof unit) == 0 &&
           (unit[1] & 3) >= 2;
}

/* The value on top of the stack, NULL when that is empty. */
static const void *stack_top(taut_peek *p, const taut_frame_layout *l, const char *frame,
                             const char *bytes) {
    const char *locals = frame + l->frame_size, *end;
    char top[sizeof end];
    if (l->stack_is_pointer) {
        end = pointer_at(bytes, l->frame_stack);
    } else {
        int count;
        memcpy(&count, bytes + l->frame_stack, sizeof count);
        if (count <= 0 || count > STACK_MAX)
            return NULL;
        end = locals + (size_t)count * sizeof end;
    }
    if (end <= locals || end > locals + STACK_MAX * sizeof end ||
        taut_peek_read(p, top, end - sizeof end, sizeof top) < 0)
        return NULL;
    return value_at(top, 0);
}

enum taut_await_state taut_await_read(taut_peek *p, const void *object, const void *type,
                                      taut_await *out) {
    const taut_frame_layout *l = taut_frames_layout();
    char all[FRAME_BYTES_MAX + 16]; /* from the state to the frame's first local */
    *out = (taut_await){.state = TAUT_AWAIT_NONE};
    if (l == NULL || (type != &PyCoro_Type && type != &PyGen_Type && type != &PyAsyncGen_Type) ||
        l->gen_frame < l->gen_state)
        return TAUT_AWAIT_NONE;
    size_t before = (size_t)(l->gen_frame - l->gen_state);
    size_t size = before + l->frame_size + sizeof(void *);
    if (size > sizeof all || taut_peek_read(p, all, (const char *)object + l->gen_state, size) < 0)
        return TAUT_AWAIT_NONE;
    signed char state = (signed char)all[0];
    if (state > l->gen_running)
        return out->state = TAUT_AWAIT_OVER;
    const char *bytes = all + before, *frame = (const char *)object + l->gen_frame;
    out->frame = frame;
    out->code = (const void *)((uintptr_t)pointer_at(bytes, l->frame_code) & ~l->frame_code_tag);
    out->instr = pointer_at(bytes, l->frame_instr);
    if (state == l->gen_created)
        return out->state = TAUT_AWAIT_CREATED;
    out->first = value_at(bytes, l->frame_size);
    if (state == l->gen_running)
        return out->state = TAUT_AWAIT_RUNNING;
    if (state == l->gen_awaits &&
        (!l->gen_resume || type == &PyCoro_Type || resumes_await(p, out->instr)))
        out->awaits = stack_top(p, l, frame, bytes);
    return out->state = TAUT_AWAIT_SUSPENDED;
}
