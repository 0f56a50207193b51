/* What the console's thread answers. Without the GIL: nothing of the interpreter is called. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "binding/console_private.h"
#include "binding/trace.h"
#include "io/findings.h"

static void put_field(taut_json_out *w, const char *key, const char *text) {
    taut_json_out_key(w, key);
    taut_json_out_text(w, text);
}

static void put_head(taut_json_out *w) {
    taut_json_out_key(w, "pid");
    taut_json_out_i64(w, getpid());
    put_field(w, "python", PY_VERSION);
    taut_json_out_key(w, "loops");
    taut_console_put_loops(w);
}

/* By a loop, or else from memory; `l` is NULL when memory is out. */
static void put_tasks(taut_json_out *w, taut_listing *l) {
    const char *how = "none";
    int complete = 0;
    taut_json_out_key(w, "tasks");
    taut_json_out_open(w, '[');
    if (l != NULL && taut_listing_enabled()) {
        if (taut_console_ask_tasks(w->to, &complete)) {
            how = "loop";
        } else if (taut_listing_begin(l, 0) == 0) {
            how = "memory";
            complete = taut_listing_tasks(l, w);
            taut_listing_end(l);
        }
    }
    taut_json_out_close(w, ']');
    put_field(w, "read_by", how);
    taut_json_out_key(w, "complete");
    taut_json_out_bool(w, complete);
}

static void put_threads(taut_json_out *w, taut_listing *l) {
    taut_json_out_key(w, "threads");
    if (l != NULL && taut_listing_enabled() && taut_listing_begin(l, 0) == 0) {
        taut_listing_stacks(l, w);
        taut_listing_end(l);
    } else {
        taut_json_out_null(w);
    }
}

static void put_findings(taut_json_out *w) {
    taut_finding f;
    taut_json_out_key(w, "findings");
    taut_json_out_open(w, '[');
    for (uint64_t change = 0; taut_findings_next(change, &f); change = f.change)
        taut_findings_write(w, &f);
    taut_json_out_close(w, ']');
}

/* "0x7f... Task-7": 1, or 0: there is no address. */
static int parse_task(const char *text, const void **task, const char **name) {
    char *end;
    unsigned long long at = strtoull(text, &end, 16);
    if (end == text || (*end != '\0' && *end != ' '))
        return 0;
    *task = (const void *)(uintptr_t)at;
    *name = *end == ' ' ? end + 1 : "";
    return 1;
}

static void put_cancel(taut_json_out *w, const char *text) {
    static const char *const said[] = {
        "refused: too many are waiting already", "queued", "queued", "asked", "refused", "gone"};
    const void *task;
    const char *name;
    if (!parse_task(text, &task, &name)) {
        put_field(w, "error", "cancel takes a task's id, such as 0x7f0123456780");
        return;
    }
    if (!taut_listing_enabled()) {
        put_field(w, "error", "tasks are not known in this process");
        return;
    }
    put_field(w, "result", said[taut_console_ask_cancel(task, name)]);
}

static int dump_more(void *ctx, taut_buf *out) {
    return taut_trace_more(ctx, out);
}
static void dump_free(void *ctx) {
    taut_trace_free(ctx);
}
static int dump_begin(taut_console_rest *rest) {
    taut_trace *trace = taut_trace_begin();
    if (trace == NULL)
        return -ENOMEM;
    *rest = (taut_console_rest){.more = dump_more, .free = dump_free, .ctx = trace};
    return 0;
}

int taut_console_answer(const char *request, taut_buf *out, taut_console_rest *rest) {
    taut_json_out w;
    if (strcmp(request, "dump") == 0)
        return dump_begin(rest);
    taut_json_out_init(&w, out);
    taut_json_out_open(&w, '{');
    put_head(&w);
    int ps = strcmp(request, "ps") == 0, stack = strcmp(request, "stack") == 0;
    if (ps || stack) {
        taut_listing *l = taut_listing_new();
        if (stack)
            put_threads(&w, l);
        put_tasks(&w, l);
        taut_listing_free(l);
    } else if (strcmp(request, "doctor") == 0) {
        put_findings(&w);
    } else if (strncmp(request, "cancel ", 7) == 0) {
        put_cancel(&w, request + 7);
    } else if (strcmp(request, "info") != 0) {
        put_field(&w, "error", "unknown request");
    }
    taut_json_out_close(&w, '}');
    int rc = taut_json_out_end(&w);
    return rc < 0 ? rc : taut_buf_append(out, "\n", 1);
}
