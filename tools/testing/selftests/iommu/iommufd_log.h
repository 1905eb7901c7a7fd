/* SPDX-License-Identifier: GPL-2.0-only */
/* The kernel's log, for tests of what the kernel warns about. */
#ifndef IOMMUFD_LOG_H
#define IOMMUFD_LOG_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The kernel's log from now on. */
static inline int log_open(void)
{
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);

	if (fd >= 0)
		lseek(fd, 0, SEEK_END);
	return fd;
}

/* Whether there is a warning in it; closes it. */
static inline bool log_has_warning(int log)
{
	bool found = false;
	char line[1024];
	ssize_t got;

	if (log < 0)
		return false;
	while ((got = read(log, line, sizeof(line) - 1)) > 0 || (got < 0 && errno == EPIPE)) {
		line[got < 0 ? 0 : got] = 0;
		if (strstr(line, "WARNING:")) {
			fprintf(stderr, "# %s", line);
			found = true;
		}
	}
	close(log);
	return found;
}

#endif /* IOMMUFD_LOG_H */
