/* Where CPython 3.13 and 3.14 keep a thread's current frame. Offsets only: nothing of the
 * interpreter's internals is called. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#if PY_VERSION_HEX >= 0x030D0000 && PY_VERSION_HEX < 0x030F0000
#define Py_BUILD_CORE 1
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wstrict-prototypes"
#pragma GCC diagnostic ignored "-Wpragmas"
#if PY_VERSION_HEX >= 0x030E0000
#include "internal/pycore_debug_offsets.h"
#include "internal/pycore_interpframe_structs.h"
#else
#endif
#include "internal/pycore_frame.h"
#include "internal/pycore_interp.h"
#include "internal/pycore_runtime.h"
#pragma GCC diagnostic pop
#include "binding/frames.h"

#if PY_VERSION_HEX >= 0x030E0000
#define CODE_TAG 3 /* a reference says in its low bits whether it is counted */
#define OWNER_SKIP FRAME_OWNED_BY_INTERPRETER
#define STACK_FIELD stackpointer
#define STACK_IS_POINTER 1
#else
#define CODE_TAG 0
#define OWNER_SKIP FRAME_OWNED_BY_CSTACK
#define STACK_FIELD stacktop
#define STACK_IS_POINTER 0
#endif

/* A later patch release could still move a field: the interpreter says itself where they are. */
static int offsets_agree(void) {
    const _Py_DebugOffsets *d = &_PyRuntime.debug_offsets;
    return memcmp(d->cookie, _Py_Debug_Cookie, sizeof d->cookie) == 0 && !d->free_threaded &&
           d->thread_state.current_frame == offsetof(PyThreadState, current_frame) &&
           d->thread_state.native_thread_id == offsetof(PyThreadState, native_thread_id) &&
           d->interpreter_frame.previous == offsetof(_PyInterpreterFrame, previous) &&
           d->interpreter_frame.executable == offsetof(_PyInterpreterFrame, f_executable) &&
           d->interpreter_frame.instr_ptr == offsetof(_PyInterpreterFrame, instr_ptr) &&
           d->interpreter_frame.owner == offsetof(_PyInterpreterFrame, owner) &&
           d->code_object.filename == offsetof(PyCodeObject, co_filename) &&
           d->code_object.qualname == offsetof(PyCodeObject, co_qualname) &&
           d->code_object.linetable == offsetof(PyCodeObject, co_linetable) &&
           d->code_object.firstlineno == offsetof(PyCodeObject, co_firstlineno) &&
           d->code_object.co_code_adaptive == offsetof(PyCodeObject, co_code_adaptive);
}

int taut_frame_layout_get(taut_frame_layout *out) {
    if (!offsets_agree())
        return -1;
    *out = (taut_frame_layout){
        .gen_created = FRAME_CREATED,
        .gen_running = FRAME_EXECUTING,
        .gen_awaits = FRAME_SUSPENDED_YIELD_FROM,
        .tstate_frame = offsetof(PyThreadState, current_frame),
        .tstate_native_id = offsetof(PyThreadState, native_thread_id),
        .cframe_frame = -1,
        .frame_size = offsetof(_PyInterpreterFrame, localsplus),
        .frame_code = offsetof(_PyInterpreterFrame, f_executable),
        .frame_code_tag = CODE_TAG,
        .frame_previous = offsetof(_PyInterpreterFrame, previous),
        .frame_instr = offsetof(_PyInterpreterFrame, instr_ptr),
        .frame_owner = offsetof(_PyInterpreterFrame, owner),
        .owner_generator = FRAME_OWNED_BY_GENERATOR,
        .gen_state = offsetof(PyGenObject, gi_frame_state),
        .gen_frame = offsetof(PyGenObject, gi_iframe),
        .frame_stack = offsetof(_PyInterpreterFrame, STACK_FIELD),
        .stack_is_pointer = STACK_IS_POINTER,
        .owner_skip = OWNER_SKIP,
        .object_frame = offsetof(PyFrameObject, f_frame),
        .gil = PyInterpreterState_Main()->ceval.gil,
        .gil_size = sizeof(struct _gil_runtime_state),
        .gil_holder = offsetof(struct _gil_runtime_state, last_holder),
        .gil_locked = offsetof(struct _gil_runtime_state, locked),
    };
    return 0;
}
#endif
