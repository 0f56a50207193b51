/* The thread "taut-reporter", which tells the user what is new in the table of findings: on stderr
 * once, and in the journal at first, and then less and less often (io/pace.h). It is started by the
 * first finding, so a healthy process has no such thread; a finding's own thread neither writes nor
 * waits for a file. Any thread; after fork() the child starts afresh. */
#ifndef TAUT_IO_REPORTER_H
#define TAUT_IO_REPORTER_H

#include <stdint.h>

/* From now on findings are told; `journal_path` as taut_journal_find gave it. What has been found
 * when the process ends by exit() is still written, unless that takes longer than a second. */
void taut_reporter_enable(const char *journal_path);
/* Whether new findings are told on stderr, too: on from the start. Those which the stall reports
 * have told in their own words never are. */
void taut_reporter_stderr_set(int on);
/* Has everything found so far told now, the journal's last word on each finding included, and waits
 * for it. 0, or -ETIMEDOUT. */
int taut_reporter_flush(uint64_t timeout_ns);
/* Tells nothing more, and ends the thread. For tests. */
void taut_reporter_disable(void);
/* The kernel's id of the thread, 0 when there is none. For tests and tools. */
int taut_reporter_thread_id(void);

#endif
