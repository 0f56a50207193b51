#include "binding/watch.h"

#include <pthread.h>
#include <string.h>

#include "base/list.h"
#include "base/mem.h"

#define WAITING_MAX 64

/* An event and, behind it, copies of all that it points to. */
typedef struct {
    taut_list link;
    taut_stall_event event;
} record;

static struct {
    pthread_mutex_t lock;
    pthread_cond_t more;
    taut_list waiting;
    int ready, listening;
    uint32_t count;
    uint64_t dropped;
} queue = {.lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER};

static const char *copy_text(char **at, const char *text) {
    char *to = *at;
    size_t size = strlen(text) + 1;
    memcpy(to, text, size);
    *at += size;
    return to;
}

/* The unused end of the stack's text is left out: `text` is its last member. */
static record *record_copy(const taut_stall_event *event) {
    size_t stack_size =
        event->stack != NULL ? offsetof(taut_stack, text) + event->stack->text_size : 0;
    size_t text_size = strlen(event->label) + strlen(event->cause) + 2;
    record *r = taut_malloc(sizeof *r + stack_size + text_size);
    if (r == NULL)
        return NULL;
    r->event = *event;
    char *at = (char *)(r + 1);
    if (event->stack != NULL) {
        memcpy(at, event->stack, stack_size);
        r->event.stack = (const taut_stack *)(void *)at;
        at += stack_size;
    }
    r->event.label = copy_text(&at, event->label);
    r->event.cause = copy_text(&at, event->cause);
    return r;
}

void taut_stall_queue_put(const taut_stall_event *event) {
    pthread_mutex_lock(&queue.lock);
    if (queue.listening) {
        int room = queue.count < WAITING_MAX || event->kind == TAUT_STALL_GONE;
        record *r = room ? record_copy(event) : NULL;
        if (r != NULL) {
            taut_list_append(&queue.waiting, &r->link);
            queue.count++;
            pthread_cond_signal(&queue.more);
        } else {
            queue.dropped++;
        }
    }
    pthread_mutex_unlock(&queue.lock);
}

static PyObject *frames_list(const taut_stack *s) {
    PyObject *list = PyList_New(0);
    for (uint32_t i = s->count; list != NULL && i-- > 0;) {
        const taut_frame *f = &s->frames[i];
        PyObject *item = Py_BuildValue("(sis)", s->text + f->file, (int)f->line, s->text + f->name);
        if (item == NULL || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *event_tuple(const taut_stall_event *e, uint64_t dropped) {
    const taut_stack *s = e->stack;
    PyObject *frames = s != NULL ? frames_list(s) : PyList_New(0);
    if (frames == NULL)
        return NULL;
    /* The frames are the outermost first, as in a traceback. */
    int site = s != NULL ? (int)(s->count - 1 - e->site_at) : -1;
    return Py_BuildValue("(iIiddKssNiiiK)", (int)e->kind, (unsigned)e->watch_id, (int)e->thread_id,
                         (double)e->duration_ns / 1e9, (double)e->threshold_ns / 1e9,
                         (unsigned long long)e->unshown, e->label, e->cause, frames, site,
                         s != NULL ? (int)s->how : 0, s != NULL ? (int)s->mode : 0,
                         (unsigned long long)dropped);
}

static void forked(void) {
    queue.lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    queue.more = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    queue.listening = 0; /* the listening thread was not copied */
}

PyDoc_STRVAR(listen_doc, "stall_listen() -> None\n\nKeeps findings for stall_next() from now on.");
static PyObject *stall_listen(PyObject *module, PyObject *unused) {
    pthread_mutex_lock(&queue.lock);
    if (!queue.ready) {
        taut_list_init(&queue.waiting);
        pthread_atfork(NULL, NULL, forked);
    }
    queue.ready = queue.listening = 1;
    pthread_mutex_unlock(&queue.lock);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(unlisten_doc,
             "stall_unlisten() -> None\n\nEnds stall_next() once the queue is empty.");
static PyObject *stall_unlisten(PyObject *module, PyObject *unused) {
    pthread_mutex_lock(&queue.lock);
    queue.listening = 0;
    pthread_cond_broadcast(&queue.more);
    pthread_mutex_unlock(&queue.lock);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(next_doc,
             "stall_next() -> tuple | None\n\nWaits for the next finding, without the GIL; "
             "None after stall_unlisten().");
static PyObject *stall_next(PyObject *module, PyObject *unused) {
    record *r = NULL;
    uint64_t dropped;
    Py_BEGIN_ALLOW_THREADS pthread_mutex_lock(&queue.lock);
    while (queue.listening && taut_list_empty(&queue.waiting))
        pthread_cond_wait(&queue.more, &queue.lock);
    if (queue.ready && !taut_list_empty(&queue.waiting)) {
        r = TAUT_CONTAINER(queue.waiting.next, record, link);
        taut_list_unlink(&r->link);
        queue.count--;
    }
    dropped = queue.dropped;
    pthread_mutex_unlock(&queue.lock);
    Py_END_ALLOW_THREADS if (r == NULL) Py_RETURN_NONE;
    PyObject *tuple = event_tuple(&r->event, dropped);
    taut_free(r);
    return tuple;
}

PyMethodDef taut_stall_queue_methods[] = {
    {"stall_listen", stall_listen, METH_NOARGS, listen_doc},
    {"stall_unlisten", stall_unlisten, METH_NOARGS, unlisten_doc},
    {"stall_next", stall_next, METH_NOARGS, next_doc},
    {NULL},
};
