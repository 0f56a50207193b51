#include "binding/gil.h"

#include <stdint.h>
#include <sys/syscall.h>

#include "binding/frames.h"

static const taut_frame_layout *known_layout(void) {
    const taut_frame_layout *layout = taut_frames_layout();
    return layout != NULL && layout->gil != NULL ? layout : NULL;
}

int taut_gil_is_awaited(const taut_thread_call *call) {
    const taut_frame_layout *layout = known_layout();
    if (layout == NULL || call->number < 0)
        return -1;
    return call->number == SYS_futex &&
           (uintptr_t)call->args[0] - (uintptr_t)layout->gil < layout->gil_size;
}

int taut_gil_holder(const void *tstate, const void **holder, pid_t *native_id) {
    const taut_frame_layout *layout = known_layout();
    taut_peek p;
    unsigned long id = 0;
    if (layout == NULL || taut_peek_begin(&p, TAUT_PEEK_VM) < 0)
        return -1;
    int rc =
        taut_peek_read(&p, holder, (const char *)layout->gil + layout->gil_holder, sizeof *holder);
    if (rc == 0 && *holder != NULL && *holder != tstate)
        rc = taut_peek_read(&p, &id, (const char *)*holder + layout->tstate_native_id, sizeof id);
    taut_peek_end(&p);
    *native_id = (pid_t)id;
    return rc == 0 && id != 0 ? 0 : -1;
}
