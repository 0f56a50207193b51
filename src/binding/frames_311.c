/* Where CPython 3.11 keeps a thread's current frame. Offsets only: nothing of the interpreter's
 * internals is called. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#if PY_VERSION_HEX >= 0x030B0000 && PY_VERSION_HEX < 0x030C0000
#define Py_BUILD_CORE 1
#undef _PyGC_FINALIZED /* the core has its own */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wstrict-prototypes"
#pragma GCC diagnostic ignored "-Wpragmas"
#include "internal/pycore_frame.h"
#include "internal/pycore_runtime.h"
#pragma GCC diagnostic pop
#include "binding/frames.h"

int taut_frame_layout_get(taut_frame_layout *out) {
    *out = (taut_frame_layout){
        .gen_created = FRAME_CREATED,
        .gen_running = FRAME_EXECUTING,
        .gen_awaits = FRAME_SUSPENDED,
        .gen_resume = 1,
        .tstate_frame = offsetof(PyThreadState, cframe),
        .tstate_native_id = offsetof(PyThreadState, native_thread_id),
        .cframe_frame = offsetof(_PyCFrame, current_frame),
        .frame_size = offsetof(_PyInterpreterFrame, localsplus),
        .frame_code = offsetof(_PyInterpreterFrame, f_code),
        .frame_previous = offsetof(_PyInterpreterFrame, previous),
        .frame_instr = offsetof(_PyInterpreterFrame, prev_instr),
        .frame_owner = offsetof(_PyInterpreterFrame, owner),
        .owner_generator = FRAME_OWNED_BY_GENERATOR,
        .gen_state = offsetof(PyGenObject, gi_frame_state),
        .gen_frame = offsetof(PyGenObject, gi_iframe),
        .frame_stack = offsetof(_PyInterpreterFrame, stacktop),
        .owner_skip = -1,
        .object_frame = offsetof(PyFrameObject, f_frame),
        .gil = &_PyRuntime.ceval.gil,
        .gil_size = sizeof(struct _gil_runtime_state),
        .gil_holder = offsetof(struct _gil_runtime_state, last_holder),
        .gil_locked = offsetof(struct _gil_runtime_state, locked),
    };
    return 0;
}
#endif
