/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Entries and walks of nested translation as they are in memory, drawn for those
 * who have not seen them.
 */
#ifndef NESTED_DRAW_H
#define NESTED_DRAW_H

#include <stdarg.h>

#include "kselftest.h"
#include "vtd_nested.h"

/* One second-stage walk, as the kernel's debugfs shows it: [level]. */
struct walk {
	uint64_t entry[6];
	bool found;
};

static bool colours;
static int failures;

enum { PLAIN, HEAD, GIOVA, GPA, HPA, GOOD, BAD, DIM };

static inline const char *ink(int which)
{
	static const char *const codes[] = {
		"\033[0m", "\033[1m", "\033[36m", "\033[33m", "\033[32m", "\033[1;32m",
		"\033[1;31m", "\033[2m",
	};

	return colours ? codes[which] : "";
}

static inline void __printf(1, 2)
head(const char *format, ...)
{
	static int number;
	va_list args;

	printf("\n%s%d. ", ink(HEAD), ++number);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("%s\n", ink(PLAIN));
}

static inline void check(bool good, const char *what)
{
	printf("   %s%s%s %s\n", ink(good ? GOOD : BAD), good ? "yes:" : "NO: ", ink(PLAIN), what);
	failures += !good;
}

static inline void must(int rc, const char *what)
{
	if (rc) {
		printf("   %s%s: %s%s\n", ink(BAD), what, strerror(-rc), ink(PLAIN));
		exit(1);
	}
}

/* The second-stage entries for @gpa. */
static inline struct walk read_second_stage(struct vtd *v, uint64_t gpa)
{
	struct walk walk = {};
	char path[128], line[256];
	FILE *f;

	snprintf(path, sizeof(path),
		 "/sys/kernel/debug/iommu/intel/%s/domain_translation_struct", v->bdf);
	f = fopen(path, "r");
	while (f && !walk.found && fgets(line, sizeof(line), f)) {
		unsigned long long pfn, e[6] = {};
		int n = sscanf(line, "0x%llx | %llx %llx %llx %llx %llx", &pfn, &e[5], &e[4], &e[3],
			       &e[2], &e[1]);
		int level;

		if (n < 4 || gpa >> 12 < pfn)
			continue;
		/* A line stands for a page of the level that it ends with. */
		if ((gpa >> 12) - pfn >= (n == 6 ? 1ULL : n == 5 ? 512ULL : 512ULL * 512))
			continue;
		for (level = 1; level <= 5; level++)
			walk.entry[level] = e[level];
		walk.found = true;
	}
	if (f)
		fclose(f);
	return walk;
}

static inline int leaf_level(const struct walk *walk)
{
	return walk->entry[1] ? 1 : walk->entry[2] ? 2 : 3;
}

static inline uint64_t walk_output(const struct walk *walk, uint64_t gpa)
{
	int level = leaf_level(walk);
	uint64_t mask = (1ULL << (12 + 9 * (level - 1))) - 1;

	return (walk->entry[level] & FS_ADDR & ~mask) | (gpa & mask);
}

/* In full once, as one line after that. */
static inline uint64_t draw_second_stage(struct vtd *v, uint64_t root, uint64_t gpa, bool full)
{
	struct walk walk = read_second_stage(v, gpa);
	uint64_t table = root, hpa;
	int level;

	if (!walk.found) {
		printf("        %sstage 2 has nothing for GPA %#llx%s\n", ink(BAD),
		       (unsigned long long)gpa, ink(PLAIN));
		failures++;
		return 0;
	}
	hpa = walk_output(&walk, gpa);
	if (full) {
		for (level = 4; level >= leaf_level(&walk); level--) {
			unsigned int index = gpa >> (12 + 9 * (level - 1)) & 511;

			printf("        %sstage 2, level %d: entry %3u of %#11llx is %016llx%s\n",
			       ink(DIM), level, index, (unsigned long long)table,
			       (unsigned long long)walk.entry[level], ink(PLAIN));
			table = walk.entry[level] & FS_ADDR;
		}
	}
	printf("        stage 2:  %sGPA %#llx%s -> %sHPA %#llx%s\n", ink(GPA),
	       (unsigned long long)gpa, ink(PLAIN), ink(HPA), (unsigned long long)hpa, ink(PLAIN));
	return hpa;
}

static inline void draw_walk(struct vtd *v, uint64_t root, uint64_t ss_root, uint64_t iova)
{
	static const char *const names[] = { "", "PTE", "PDE", "PDPTE", "PML4E" };
	uint64_t table = root;
	int level;

	for (level = 4; level >= 1; level--) {
		unsigned int index = iova >> (12 + 9 * (level - 1)) & 511;
		uint64_t at = table + 8 * index;
		uint64_t entry = *entry_of(v, table, index);

		printf("   %s%-5s%s  entry %3u of the table at %sGPA %#llx%s: where is that?\n",
		       ink(HEAD), names[level], ink(PLAIN), index, ink(GPA),
		       (unsigned long long)table, ink(PLAIN));
		draw_second_stage(v, ss_root, at, level == 4);
		printf("        stage 1:  it holds %016llx: %s%s%s%s%s%s%sGPA %#llx%s\n",
		       (unsigned long long)entry, entry & FS_P ? "P" : "-",
		       entry & FS_RW ? "W" : "-", entry & FS_US ? "U" : "-",
		       entry & FS_A ? "A" : "-", entry & FS_D ? "D" : "-",
		       level == 1 ? ", the page is at " : ", next table at ", ink(GPA),
		       (unsigned long long)(entry & FS_ADDR), ink(PLAIN));
		table = entry & FS_ADDR;
	}
	printf("   %spage%s\n", ink(HEAD), ink(PLAIN));
	draw_second_stage(v, ss_root, table | (iova & 0xfff), false);
}

static inline void show_pasid_entry(struct vtd *v, uint64_t root, uint64_t *ss_root)
{
	uint64_t w[3];

	if (!vtd_pasid_entry(v, w)) {
		printf("   debugfs shows no PASID entry of %s\n", v->bdf);
		failures++;
		return;
	}
	printf("   word 0  %016llx   present %d, width %d bits, PGTT %d, ",
	       (unsigned long long)w[0], (int)(w[0] & 1), 30 + 9 * (int)(w[0] >> 2 & 7),
	       (int)(w[0] >> 6 & 7));
	printf("stage-2 root %sHPA %#llx%s\n", ink(HPA), (unsigned long long)(w[0] & FS_ADDR),
	       ink(PLAIN));
	printf("   word 1  %016llx   domain-id %d\n", (unsigned long long)w[1],
	       (int)(w[1] & 0xffff));
	printf("   word 2  %016llx   %d-level stage 1, root %sGPA %#llx%s\n",
	       (unsigned long long)w[2], 4 + (int)(w[2] >> 2 & 3), ink(GPA),
	       (unsigned long long)(w[2] & FS_ADDR), ink(PLAIN));
	check((w[0] & 1) && (w[0] >> 6 & 7) == 3, "PGTT 3 is \"nested\": stage 1, then stage 2");
	check((w[2] & FS_ADDR) == root, "the stage-1 root is the table that the guest made");
	*ss_root = w[0] & FS_ADDR;
}

#endif
