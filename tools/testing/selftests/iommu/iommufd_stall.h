/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * User memory that does not answer, and calls that may have to wait for it. PG is
 * the size of a page, of who includes this; a fixture that uses the macros has
 * `memory` and `asked`.
 */
#ifndef IOMMUFD_STALL_H
#define IOMMUFD_STALL_H

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* "At once", in seconds: the slowest machine needs a tenth of it. */
#define AT_ONCE 2
/* For a test that fails: the kernel's own limit, and what it does then. */
#define AT_LAST 90

/* A call that may not return. */
struct call {
	int fd;
	unsigned long cmd;
	void *arg;
	size_t size;
	long (*make)(struct call *call);
	int error;
	long result;
	pthread_t thread;
};

static inline long make_ioctl(struct call *call)
{
	return ioctl(call->fd, call->cmd, call->arg);
}

static inline long make_read(struct call *call)
{
	return read(call->fd, call->arg, call->size);
}

static inline long make_write(struct call *call)
{
	return write(call->fd, call->arg, call->size);
}

static inline void *run_call(void *arg)
{
	struct call *call = arg;

	call->result = call->make(call);
	call->error = call->result < 0 ? errno : 0;
	return NULL;
}

static inline bool begin(struct call *call)
{
	return !pthread_create(&call->thread, NULL, run_call, call);
}

/* Whether the call has returned within so many seconds. */
static inline bool ended(struct call *call, int seconds)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += seconds;
	return !pthread_timedjoin_np(call->thread, NULL, &until);
}

/*
 * Pages side by side: one that can be read but not written to, one that is not
 * there, and one as usual.
 */
struct memory {
	int uffd;
	void *answer, *absent, *usual;
};

static inline bool stall(struct memory *memory)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP };
	struct uffdio_register wp = {
		.range = { (uintptr_t)memory->answer, PG },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	struct uffdio_register missing = {
		.range = { (uintptr_t)memory->absent, PG },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	struct uffdio_writeprotect protect = {
		.range = wp.range, .mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};

	/* It may have come with its neighbours, in a huge page. */
	if (mmap(memory->absent, PG, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		return false;
	memory->uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	return memory->uffd >= 0 && !ioctl(memory->uffd, UFFDIO_API, &api) &&
	       !ioctl(memory->uffd, UFFDIO_REGISTER, &wp) &&
	       !ioctl(memory->uffd, UFFDIO_REGISTER, &missing) &&
	       !ioctl(memory->uffd, UFFDIO_WRITEPROTECT, &protect);
}

/* Whether somebody waits for the memory. */
static inline bool is_stalled(struct memory *memory)
{
	struct pollfd wait = { .fd = memory->uffd, .events = POLLIN };
	struct uffd_msg message;

	return poll(&wait, 1, 10000) == 1 &&
	       read(memory->uffd, &message, sizeof(message)) == sizeof(message) &&
	       message.event == UFFD_EVENT_PAGEFAULT;
}

/* Gives whoever waits the memory: closing does, for zeroes are there then. */
static inline void answer(struct memory *memory)
{
	close(memory->uffd);
	memory->uffd = -1;
}

static inline bool get_memory(struct memory *memory)
{
	memory->uffd = -1;
	memory->answer = mmap(NULL, 3 * PG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			      -1, 0);
	memory->absent = memory->answer + PG;
	memory->usual = memory->absent + PG;
	return memory->answer != MAP_FAILED;
}

/* Has the ioctl wait for memory. */
#define stall_it()                                             \
	({                                                     \
		ASSERT_TRUE(stall(&self->memory));             \
		ASSERT_TRUE(begin(&self->asked));              \
		ASSERT_TRUE(is_stalled(&self->memory));        \
	})

/* Makes another call, which must not wait for that; then lets both end. */
#define meanwhile(other)                                               \
	({                                                             \
		struct call *now = (other);                            \
		bool in_time;                                          \
								       \
		ASSERT_TRUE(begin(now));                               \
		in_time = ended(now, AT_ONCE);                         \
		answer(&self->memory);                                 \
		EXPECT_TRUE(in_time)                                   \
			TH_LOG("it waits for memory of another call"); \
		if (!in_time) {                                        \
			ASSERT_TRUE(ended(now, AT_LAST));              \
		}                                                      \
		ASSERT_TRUE(ended(&self->asked, AT_LAST));             \
	})

#endif
