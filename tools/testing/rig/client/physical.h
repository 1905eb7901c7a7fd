/* SPDX-License-Identifier: GPL-2.0-only */
/* Where memory really is. */
#ifndef PHYSICAL_H
#define PHYSICAL_H

#include <fcntl.h>
#include <stdint.h>
#include <unistd.h>

/*
 * The physical address of the page at @at; 0: not known. The page is read first: pagemap
 * knows what this process has faulted in, not what the file behind it holds.
 */
static inline uint64_t physical(const void *at)
{
	uint64_t entry = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY);

	(void)*(const volatile char *)at;
	if (fd < 0 || pread(fd, &entry, 8, (uintptr_t)at / 4096 * 8) != 8)
		entry = 0;
	close(fd);
	return (entry & ((1ULL << 55) - 1)) * 4096;
}

#endif /* PHYSICAL_H */
