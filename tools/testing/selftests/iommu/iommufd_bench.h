/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the benchmarks of /dev/iommu share: the clock, and the count of what the
 * kernel traces while an operation runs.
 */
#ifndef IOMMUFD_BENCH_H
#define IOMMUFD_BENCH_H

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <linux/types.h>

#define must(expr)                                                          \
	do {                                                                \
		if ((expr)) {                                               \
			fprintf(stderr, "%s:%d: %s: %s\n", __func__,        \
				__LINE__, #expr, strerror(errno));          \
			exit(1);                                            \
		}                                                           \
	} while (0)

static inline __u64 now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

/* A profiler counts between these two; the rig's bench-profile knows their names. */
__attribute__((noipa)) static __u64 bench_begin(void)
{
	return now();
}

__attribute__((noipa)) static __u64 bench_end(void)
{
	return now();
}

static inline int bench_compare(const void *a, const void *b)
{
	double d = *(const double *)a - *(const double *)b;

	return (d > 0) - (d < 0);
}

static inline double bench_median(double *values, unsigned int count)
{
	qsort(values, count, sizeof(values[0]), bench_compare);
	return values[count / 2];
}

/*
 * Nanoseconds for each of @count runs, after one to fault in and fill the slabs:
 * the median of up to five parts, as now and then the kernel does something else.
 */
static inline double bench_run(void (*run)(void *), void *arg, unsigned int count)
{
	unsigned int parts = count < 5 ? count : 5, each = count / parts;
	double took[5];

	run(arg);
	/* What others have left for after a grace period is not this one's. */
	usleep(100000);
	for (unsigned int part = 0; part < parts; part++) {
		__u64 start = bench_begin();

		for (unsigned int i = 0; i < each; i++)
			run(arg);
		took[part] = (double)(bench_end() - start) / each;
	}
	return bench_median(took, parts);
}

#define TRACING "/sys/kernel/tracing/"

static inline void put(const char *file, const char *text)
{
	int fd = open(file, O_WRONLY | O_APPEND);

	must(fd < 0 || write(fd, text, strlen(text)) < 0);
	close(fd);
}

/* Trace events, NULL behind the last, and the number in each that is added up. */
struct traced {
	const char *events[3], *field;
};

/* Only this process's. */
static inline void trace_begin(void)
{
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", getpid());
	put(TRACING "set_event_pid", pid);
}

static inline void trace_enable(const struct traced *t, const char *on)
{
	char file[128];

	for (unsigned int i = 0; t->events[i]; i++) {
		snprintf(file, sizeof(file), TRACING "events/%s/enable", t->events[i]);
		put(file, on);
	}
}

/* Counts the events while @run runs (NULL: of the tracing itself), and adds them up. */
static inline void trace_run(const struct traced *t, void (*run)(void *), void *arg, long *count,
			     long *sum)
{
	char line[1024];
	FILE *f;

	/* Opening it to truncate empties the buffer. */
	f = fopen(TRACING "trace", "w");
	must(!f);
	fclose(f);
	trace_enable(t, "1");
	if (run)
		run(arg);
	trace_enable(t, "0");
	f = fopen(TRACING "trace", "r");
	must(!f);
	*count = 0;
	*sum = 0;
	while (fgets(line, sizeof(line), f)) {
		char *at = strstr(line, t->field);

		if (!at)
			continue;
		++*count;
		*sum += strtol(at + strlen(t->field), NULL, 10);
	}
	fclose(f);
}

#endif
