#include "binding/stall_code.h"

#define OTHER_PROCESS                                                                              \
    "another process: await loop.run_in_executor(concurrent.futures.ProcessPoolExecutor(), "       \
    "function, *args)"

static const taut_stall_known computes = {
    "cpu-bound-step", "one step of a task (or one callback) computes for long without an await",
    "do it in parts, with await asyncio.sleep(0) in between, or in " OTHER_PROCESS
    "; C code that gives up the GIL may go to a thread: await asyncio.to_thread(function, *args)"};
static const taut_stall_known never_yields = {
    "never-yields",
    "this code has run for more than 5 s without an await that lets other tasks run",
    "let others run in each round of its loop (await asyncio.sleep(0)), or move the work "
    "to " OTHER_PROCESS};
static const taut_stall_known collection = {
    "gc-pause",
    "a garbage collection goes through all objects of the process, and the event loop waits for it",
    "take what lives for long out of it once the program has started (gc.collect(); gc.freeze()), "
    "and collect the oldest generation more rarely: gc.set_threshold(50_000, 20, 100)"};
static const taut_stall_known collects = {
    "gc-pause", "gc.collect() goes through all objects of the process on the event loop's thread",
    "leave collections to the interpreter, call it where no request waits (at the start, before "
    "gc.freeze()), or collect the young only: gc.collect(0)"};
static const taut_stall_known lock_held = {
    "gil-held",
    "the event loop cannot run: another thread holds the interpreter's lock (GIL) at this line",
    "do it in " OTHER_PROCESS " instead of a thread; or in smaller parts"};
static const taut_stall_known lock_held_by_nobody_known = {
    "gil-held", "the event loop cannot run: other threads hold the interpreter's lock (GIL)",
    "do what they compute in " OTHER_PROCESS " instead of a thread; or in smaller parts"};
static const taut_stall_known in_handler = {
    "slow-signal-handler",
    "the handler of a signal takes long, and the event loop's thread runs nothing else meanwhile",
    "let it set something and return: loop.add_signal_handler(signal.SIGTERM, stop.set) with stop "
    "= asyncio.Event(), and do the work in a task that awaits stop.wait()"};
static const taut_stall_known loop_sleeps = {
    "blocking-call", "the event loop's own code is asleep in a system call",
    "its stack tells where; please report it as an error of taut"};

static taut_stall_verdict verdict(const taut_stall_known *known, const char *code, uint32_t blame) {
    return (taut_stall_verdict){.code = known->code != NULL ? known->code : code,
                                .cause = known->cause,
                                .remedy = known->remedy,
                                .blame = blame};
}

/* What the user's code called is known by its library or, where it is C, by the system call. */
static taut_stall_verdict judge_callback(const taut_stall_signs *s, int sleeps) {
    uint32_t at, site = s->site_at, count = s->site_is_user ? s->site_at : s->end;
    const char *code = sleeps ? "blocking-call" : "cpu-bound-step";
    const taut_stall_known *library = NULL;
    if (s->sleeps && !sleeps) /* it has computed before, but is known for this */
        library = taut_stall_known_library(s->stack, count, 1, &at);
    if (library == NULL)
        library = taut_stall_known_library(s->stack, count, sleeps, &at);
    if (library != NULL && !s->site_is_user && at + 1 < s->end)
        site = at + 1; /* a program that is installed like a library: its caller */
    if (s->in_signal)
        return verdict(&in_handler, NULL, site);
    if (library != NULL)
        return verdict(library, code, site);
    if (sleeps)
        return verdict(taut_stall_known_call(s->blocked), code, site);
    if (s->moves && s->lasted_ns >= TAUT_NEVER_YIELDS_NS)
        return verdict(&never_yields, code, s->coroutine != TAUT_STACK_NONE ? s->coroutine : site);
    return verdict(&computes, code, site);
}

taut_stall_verdict taut_stall_judge(const taut_stall_signs *s) {
    /* What the thread would have taken with a CPU to itself. */
    unsigned own = s->delay < 100 ? 100 - s->delay : 0;
    int sleeps = s->cpu < own / 2;
    if (s->in_gc)
        return s->collects ? verdict(&collects, NULL, s->site_at)
                           : verdict(&collection, NULL, TAUT_STALL_NOBODY);
    if (s->awaits_gil)
        return verdict(&lock_held, NULL, TAUT_STALL_GIL_HOLDER);
    /* Then the host is to blame, not this line; see its own finding. */
    if (s->lasted_ns / 100 * own < s->threshold_ns)
        return (taut_stall_verdict){.blame = TAUT_STALL_NOBODY};
    /* Nor is it when the thread waits for a CPU right now, which nobody has counted yet. */
    if (sleeps && !s->sleeps)
        return (taut_stall_verdict){.blame = TAUT_STALL_NOBODY};
    if (s->end > 0)
        return judge_callback(s, sleeps);
    if (sleeps && s->blocked == TAUT_BLOCKED_LOCK)
        return verdict(&lock_held_by_nobody_known, NULL, TAUT_STALL_NOBODY);
    return sleeps ? verdict(&loop_sleeps, NULL, TAUT_STALL_NOBODY)
                  : (taut_stall_verdict){.blame = TAUT_STALL_NOBODY};
}
