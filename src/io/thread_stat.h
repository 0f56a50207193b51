/* What the kernel says of a thread of ours: whether it runs, how long it has had to wait for a CPU,
 * and in which system call it sleeps. Reads of /proc, so not for hot paths; any thread, no lock.
 * Where the kernel (or a sandbox) does not say, the answers are 0 and "unknown". */
#ifndef TAUT_IO_THREAD_STAT_H
#define TAUT_IO_THREAD_STAT_H

#include <stdint.h>
#include <sys/types.h>

/* 'R' (on a CPU or waiting for one), 'S', 'D', ...; 0: unknown. */
char taut_thread_state(pid_t native_id);
/* How long the thread was ready to run but had no CPU, in all. */
uint64_t taut_thread_delay_ns(pid_t native_id);

/* The system call that a thread sleeps in. */
typedef struct {
    long number; /* SYS_...; -1: none, or unknown */
    unsigned long args[3];
} taut_thread_call;
taut_thread_call taut_thread_call_now(pid_t native_id);

/* What it sleeps for. */
enum taut_blocked {
    TAUT_BLOCKED_UNKNOWN = 0,
    TAUT_BLOCKED_SLEEP,  /* a moment to come, as time.sleep() does */
    TAUT_BLOCKED_NAP,    /* some time to pass, as libraries in C do before they try again */
    TAUT_BLOCKED_LOCK,   /* a lock, or what is made of locks */
    TAUT_BLOCKED_SOCKET, /* the other end of a socket */
    TAUT_BLOCKED_READ,   /* data from a pipe */
    TAUT_BLOCKED_WRITE,  /* room in a pipe */
    TAUT_BLOCKED_TERMINAL,
    TAUT_BLOCKED_OPEN,      /* the opening of a file: of a FIFO the other end */
    TAUT_BLOCKED_DISK,      /* a file's contents, or their way to the disk */
    TAUT_BLOCKED_FILE_LOCK, /* flock() and the like */
    TAUT_BLOCKED_CHILD,     /* the end of a child process */
};
/* `native_id`: the thread whose call it is; its fds are looked at. */
enum taut_blocked taut_thread_blocked(pid_t native_id, const taut_thread_call *call);

#endif
