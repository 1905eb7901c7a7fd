// SPDX-License-Identifier: GPL-2.0
/*
 * usage: client-left pinned         says how many pages are pinned
 *        client-left nothing PAGES  fails, and says why, unless as many are pinned now, and
 *                                   the user is charged for nothing
 */
#include <sys/mman.h>

#include "vtd_nested.h"
#include "iommufd_gone.h"

int main(int argc, char **argv)
{
	unsigned long before, now;
	void *memory;

	if (argc == 2 && !strcmp(argv[1], "pinned")) {
		printf("%lu\n", vtd_pinned());
		return 0;
	}
	if (argc != 3)
		return 2;
	before = strtoul(argv[2], NULL, 0);
	now = vtd_unpinned(before);
	if (now != before) {
		printf("%ld pages stay pinned\n", now - before);
		return 1;
	}
	memory = mmap(NULL, 8 * PG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED || !may_not_lock() || !nothing_charged(memory, 8)) {
		puts("the user stays charged");
		return 1;
	}
	return 0;
}
