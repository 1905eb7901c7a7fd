// SPDX-License-Identifier: GPL-2.0-only
/*
 * Nested translation, told step by step on the running system: the machine,
 * the objects, the PASID entry that the kernel programmed, the walk of one
 * address with the entries that are really in memory, DMA, and what a stale
 * translation looks like. nested_demo [-c]: with colours. Fails when anything
 * is not as told. `make run` shows it.
 */
#include <stdarg.h>

#include "kselftest.h"
#include "vtd_engine.h"

#define IOVA	0x7fe000200000ULL
#define FIRST	(DATA_PAGE + 10)
#define SECOND	(DATA_PAGE + 20)

/* One second-stage walk, as the kernel's debugfs shows it: [level]. */
struct walk {
	uint64_t entry[6];
	bool found;
};

static bool colours;
static int failures;

enum { PLAIN, HEAD, GIOVA, GPA, HPA, GOOD, BAD, DIM };

static const char *ink(int which)
{
	static const char *const codes[] = {
		"\033[0m", "\033[1m", "\033[36m", "\033[33m", "\033[32m", "\033[1;32m",
		"\033[1;31m", "\033[2m",
	};

	return colours ? codes[which] : "";
}

static void __printf(1, 2)
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

static void check(bool good, const char *what)
{
	printf("   %s%s%s %s\n", ink(good ? GOOD : BAD), good ? "yes:" : "NO: ", ink(PLAIN), what);
	failures += !good;
}

static void must(int rc, const char *what)
{
	if (rc) {
		printf("   %s%s: %s%s\n", ink(BAD), what, strerror(-rc), ink(PLAIN));
		exit(1);
	}
}

/* The second-stage entries for @gpa. */
static struct walk read_second_stage(struct vtd *v, uint64_t gpa)
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

static int leaf_level(const struct walk *walk)
{
	return walk->entry[1] ? 1 : walk->entry[2] ? 2 : 3;
}

static uint64_t walk_output(const struct walk *walk, uint64_t gpa)
{
	int level = leaf_level(walk);
	uint64_t mask = (1ULL << (12 + 9 * (level - 1))) - 1;

	return (walk->entry[level] & FS_ADDR & ~mask) | (gpa & mask);
}

/* In full once, as one line after that. */
static uint64_t draw_second_stage(struct vtd *v, uint64_t root, uint64_t gpa, bool full)
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

static void draw_walk(struct vtd *v, uint64_t root, uint64_t ss_root, uint64_t iova)
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

static const char *kept(const struct vtd *v, uint64_t value)
{
	if (value == TOKEN(FIRST))
		return "page 1";
	if (value == TOKEN(SECOND))
		return "page 2";
	return refused(v, value) ? "nothing" : "something else";
}

static void show_pasid_entry(struct vtd *v, uint64_t root, uint64_t *ss_root)
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

static void show_objects(struct vtd *v, uint32_t hwpt)
{
	printf("   device    id %u   %s, bound through vfio-pci\n", v->dev_id, v->bdf);
	printf("   IOAS      id %u   16 MiB of this program's memory at %sGPA %#llx%s\n", v->ioas,
	       ink(GPA), GPA_BASE, ink(PLAIN));
	printf("   HWPT      id %u   nest parent: stage 2, tables by the kernel (GPA -> HPA)\n",
	       v->parent);
	printf("   HWPT      id %u   nested: stage 1, tables by the guest (GIOVA -> GPA)\n", hwpt);
	printf("   the device is attached to %u, which holds on to %u, which holds on to %u\n",
	       hwpt,
	       v->parent, v->ioas);
}

int main(int argc, char **argv)
{
	uint64_t root, ss_root = 0, value, before;
	struct vtd demo, *v = &demo;
	uint64_t *leaf;
	uint32_t hwpt;
	int rc;

	colours = argc > 1 && !strcmp(argv[1], "-c");
	rc = vtd_setup(v, 0);
	if (rc) {
		printf("%s\n", v->why);
		return rc > 0 ? KSFT_SKIP : 1;
	}
	if (!vtd_is_edu(v)) {
		printf("the demonstration needs QEMU's edu device\n");
		return KSFT_SKIP;
	}

	printf("\nThree kinds of address: a device sends %sGIOVAs%s, which a guest gave it. The\n"
	       "guest's tables (stage 1) make them %sGPAs%s, what the guest believes to be memory.\n"
	       "The host's tables (stage 2) make those %sHPAs%s: memory. The IOMMU walks both.\n",
	       ink(GIOVA), ink(PLAIN), ink(GPA), ink(PLAIN), ink(HPA), ink(PLAIN));

	head("The machine");
	printf("   cap %016llx  ecap %016llx\n", (unsigned long long)v->hw.cap_reg,
	       (unsigned long long)v->hw.ecap_reg);
	printf("   stage 1 %s, stage 2 %s, nested %s, dirty tracking %s, 5-level stage 1 %s\n",
	       v->hw.ecap_reg & ECAP_FLTS ? "yes" : "no", v->hw.ecap_reg & ECAP_SLTS ? "yes" : "no",
	       v->hw.ecap_reg & ECAP_NEST ? "yes" : "no",
	       v->hw_caps & IOMMU_HW_CAP_DIRTY_TRACKING ? "yes" : "no",
	       v->hw.cap_reg & CAP_FL5LP ? "yes" : "no");

	head("The objects of /dev/iommu");
	root = vtd_new_root(v);
	vtd_set(v, root, IOVA, gpa_of(FIRST), FS_LEAF);
	must(vtd_alloc_nested(v, v->parent, root, 48, &hwpt), "nested hwpt");
	must(vtd_attach(v, hwpt), "attach");
	show_objects(v, hwpt);

	head("What the kernel programmed: PASID entry 0 of the device");
	show_pasid_entry(v, root, &ss_root);

	head("The walk of %sGIOVA %#llx%s", ink(GIOVA), IOVA, ink(PLAIN));
	printf("   Each stage-1 entry lies at a GPA, so stage 2 is walked to find it.\n");
	draw_walk(v, root, ss_root, IOVA);

	head("DMA through both stages");
	value = dev_read(v, IOVA);
	printf("   the device reads  8 bytes at GIOVA %#llx: %016llx (%s)\n", IOVA,
	       (unsigned long long)value, kept(v, value));
	check(value == TOKEN(FIRST), "that is what lies in page 1");
	dev_write(v, IOVA + 8, 0x6f6c6c6548ULL);
	printf("   the device writes 8 bytes at GIOVA %#llx: \"%s\" is in memory\n", IOVA + 8,
	       (char *)host_of(v, FIRST) + 8);
	check(!strcmp((char *)host_of(v, FIRST) + 8, "Hello"), "it arrived in page 1");
	leaf = vtd_entry(v, root, 4, IOVA, 1);
	printf("   the guest's entry is %016llx now\n", (unsigned long long)*leaf);
	check((*leaf & (FS_A | FS_D)) == (FS_A | FS_D), "the IOMMU set Accessed and Dirty in it");

	head("The guest maps page 2 at the same GIOVA");
	vtd_set(v, root, IOVA, gpa_of(SECOND), FS_LEAF);
	printf("   its entry becomes %016llx\n", (unsigned long long)*leaf);
	before = dev_read(v, IOVA);
	printf("   the device reads  %016llx: %s\n", (unsigned long long)before, kept(v, before));
	check(before == TOKEN(FIRST), "still page 1: the IOMMU remembers the old translation");
	must(vtd_invalidate(v, hwpt, IOVA, 1), "HWPT_INVALIDATE");
	printf("   IOMMU_HWPT_INVALIDATE of one page, as a VMM does it for its guest\n");
	value = dev_read(v, IOVA);
	printf("   the device reads  %016llx: %s\n", (unsigned long long)value, kept(v, value));
	check(value == TOKEN(SECOND), "page 2, at once");

	head("The host takes the page away");
	must(vtd_unmap_gpa(v, v->ioas, gpa_of(SECOND), PG), "IOAS_UNMAP");
	value = dev_read(v, IOVA);
	printf("   the guest's tables are as before; the device reads %s\n", kept(v, value));
	check(refused(v, value), "stage 2 refuses, without any help of the guest");

	vtd_end(v);
	if (failures)
		printf("\n%s%d of the claims above did not hold.%s\n", ink(BAD), failures,
		       ink(PLAIN));
	else
		printf("\n%sAll of it held.%s\n", ink(GOOD), ink(PLAIN));
	return failures ? 1 : 0;
}
