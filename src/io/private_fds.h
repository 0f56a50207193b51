/* A thread with an fd table of its own. While two threads share a table the kernel counts a
 * reference, with an atomic operation, for each fd that a system call uses (fdget); a process
 * whose only other thread is the watchdog would pay that at every read and write. So the watchdog
 * gives up the shared table and borrows the process's fds one by one.
 *
 * Linux 5.9 (close_range(2)) and permission for pidfd_getfd(2) are needed; where they are missing
 * the thread goes on with the shared table and the calls below still work. */
#ifndef TAUT_IO_PRIVATE_FDS_H
#define TAUT_IO_PRIVATE_FDS_H

#include <stddef.h>

/* Gives the calling thread an empty table, for good. 0, or a negative error: nothing changed.
 * Nothing else in the process is closed or changed, and none of its fds is kept open. Also in a
 * thread that was started by one with a table of its own, and shares that one so far. */
int taut_private_fds_enter(void);
/* Whether the calling thread has. */
int taut_private_fds_entered(void);
/* The process's fd for use by the calling thread, or a negative error (-EBADF: it is not open).
 * Give it back with taut_private_fds_put. In a thread that has not entered it is `fd` itself. */
int taut_private_fds_get(int fd);
void taut_private_fds_put(int fd);
/* Writes all of it to the process's fd, as it is at this moment. 0 or a negative error. */
int taut_private_fds_write(int fd, const char *text, size_t size);

#endif
