/* Requests, read as memory by threads without the GIL. */
#include "binding/request.h"
#include "binding/task_name.h"

#include <stdio.h>

#include "io/routes.h"

#define CHARS_MAX 120 /* of a path */

int taut_request_read(taut_peek *p, const taut_state *st, const void *at, taut_request *r) {
    if (at == NULL || taut_peek_read(p, r, at, sizeof *r) < 0 ||
        Py_TYPE((PyObject *)r) != st->request_type || r->over || r->route >= TAUT_ROUTES_MAX)
        return -1;
    return 0;
}

const void *taut_request_of_task(taut_peek *p, const taut_state *st, const void *task,
                                 taut_request *r) {
    const void *at;
    if (!taut_task_is_own(p, task) ||
        taut_peek_read(p, &at, (const char *)task + offsetof(taut_task, request), sizeof at) < 0 ||
        taut_request_read(p, st, at, r) < 0)
        return NULL;
    return at;
}

int taut_request_say(taut_peek *p, const taut_request *r, taut_stack *scratch, char *to,
                     size_t room) {
    if (r->route >= 0) {
        const taut_route *route = taut_routes_at((unsigned)r->route);
        snprintf(to, room, "%s %s", route->method, route->path);
        return 0;
    }
    uint32_t size = scratch->text_size, method, path;
    int rc = taut_frames_copy_str(p, r->method, TAUT_ROUTE_METHOD_MAX, scratch, &method);
    if (rc == 0)
        rc = taut_frames_copy_str(p, r->path, CHARS_MAX, scratch, &path);
    if (rc == 0)
        snprintf(to, room, "%s %s", scratch->text + method, scratch->text + path);
    scratch->text_size = size;
    return rc == 0 ? 0 : -1;
}

int taut_request_say_running(const taut_loop *core, taut_stack *scratch, char *to, size_t room) {
    const taut_state *st = TAUT_CONTAINER(core, const taut_pyloop, core)->st;
    const void *current = atomic_load_explicit(&core->pulse.current, memory_order_relaxed), *task;
    taut_request r;
    taut_peek p;
    if (current == NULL || taut_peek_begin(&p, TAUT_PEEK_VM) < 0)
        return -1;
    int rc = -1;
    if (taut_task_of(&p, current, &task) == 0 && taut_request_of_task(&p, st, task, &r) != NULL)
        rc = taut_request_say(&p, &r, scratch, to, room);
    taut_peek_end(&p);
    return rc;
}
