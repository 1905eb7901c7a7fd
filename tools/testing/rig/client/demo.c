// SPDX-License-Identifier: GPL-2.0-only
/*
 * usage: client-demo [-c] ADDRESS PID FOLDER PAGES
 *
 * QEMU (PID) runs a guest that has the disk at ADDRESS, and did what do=demo of guest.c
 * is. FOLDER has what the guest said, what QEMU asked of the kernel, and its monitor;
 * PAGES were pinned before. Tells what came of it, then ends QEMU. Fails when anything is
 * not as told.
 */
#include <sys/stat.h>

#include "nested_draw.h"
#include "physical.h"

static const char *folder;

/* The file in the folder, which ends when the program does. */
static FILE *file(const char *name)
{
	char path[PATH_MAX];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	f = fopen(path, "r");
	must(f ? 0 : -errno, path);
	return f;
}

/* The number behind @word in what the guest said. */
static uint64_t said(const char *word)
{
	char line[1024];
	uint64_t value = 0;
	FILE *f = file("said");

	while (fgets(line, sizeof(line), f)) {
		if (!strncmp(line, word, strlen(word)))
			value = strtoull(line + strlen(word), NULL, 16);
	}
	fclose(f);
	return value;
}

/* The value of @name in a call's line, or 0. */
static uint64_t value_of(const char *line, const char *name)
{
	const char *at = strstr(line, name);

	return at ? strtoull(at + strlen(name), NULL, 0) : 0;
}

/* What the calls mean. */
static const struct meaning {
	const char *call, *text;
} meanings[] = {
	{ "BIND_IOMMUFD ", "the disk is an object of this /dev/iommu now" },
	{ "IOAS_ALLOC ", "an address space: GPA -> memory of QEMU" },
	{ "GET_HW_INFO ", "can this IOMMU walk the tables of a guest?" },
	{ "HWPT_ALLOC flags=0x3 ", "its stage 2, which others may nest on, and which tells what is dirty" },
	{ "ATTACH_IOMMUFD_PT flags=0 pt_id=0x3 ", "the disk's DMA goes through stage 2" },
	{ "IOAS_IOVA_RANGES ", "where can things be mapped?" },
	{ "IOAS_MAP_FILE ", "the guest's memory: it is pinned, and in stage 2" },
	{ "IOAS_UNMAP ", "the guest's firmware has changed what is memory" },
	{ "HWPT_ALLOC flags=0 ", "stage 1, from the root that the guest has set" },
	{ "ATTACH_IOMMUFD_PT flags=0 pt_id=0x4 ", "the disk's DMA goes through both stages" },
	{ "HWPT_INVALIDATE ", "the guest has unmapped something" },
};

/* The first call of each meaning, and how many there were. */
static void show_calls(void)
{
	char line[1024], first[1024];
	unsigned int i, count;

	for (i = 0; i < sizeof(meanings) / sizeof(meanings[0]); i++) {
		const struct meaning *m = &meanings[i];
		FILE *f = file("calls");

		count = 0;
		while (fgets(line, sizeof(line), f)) {
			if (!strncmp(line, m->call, strlen(m->call)) && !count++)
				strcpy(first, line);
		}
		fclose(f);
		printf("   %s%-17.*s %4u%s  %s\n", ink(HEAD), (int)strcspn(m->call, " "), m->call,
		       count, ink(PLAIN), m->text);
		if (count)
			printf("          %s%s%s", ink(DIM), strchr(first, ' ') + 1, ink(PLAIN));
		failures += !count;
	}
}

/* All the memory of the guest, of which QEMU has a descriptor. */
static unsigned char *guest_memory(pid_t pid)
{
	char path[64], target[128];
	struct stat info;
	void *at = MAP_FAILED;
	int number, fd;

	for (number = 0; at == MAP_FAILED && number < 256; number++) {
		ssize_t length;

		snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, number);
		length = readlink(path, target, sizeof(target) - 1);
		target[length < 0 ? 0 : length] = 0;
		if (!strstr(target, "memfd:memory-backend-memfd"))
			continue;
		fd = open(path, O_RDWR);
		if (fd >= 0 && !fstat(fd, &info))
			at = mmap(NULL, info.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		close(fd);
	}
	must(at == MAP_FAILED ? -ENOENT : 0, "the guest's memory");
	return at;
}

/* Lines of the file that begin with @word and have the number @iova behind @name. */
static unsigned int lines_of(const char *name, const char *word, const char *field, uint64_t iova)
{
	char line[1024];
	unsigned int count = 0;
	FILE *f = file(name);

	while (fgets(line, sizeof(line), f)) {
		if (!strncmp(line, word, strlen(word)) && value_of(line, field) == iova)
			count++;
	}
	fclose(f);
	return count;
}

/* Prints the last line of the file that begins with @word; the number behind @field. */
static uint64_t last_line(const char *name, const char *word, const char *field)
{
	char line[1024], last[1024] = "";
	FILE *f = file(name);

	while (fgets(line, sizeof(line), f)) {
		if (!strncmp(line, word, strlen(word)))
			strcpy(last, line);
	}
	fclose(f);
	printf("   %s", last[0] ? last : "(none)\n");
	return value_of(last, field);
}

/* What the guest has added up, of the file that is the disk. */
static uint64_t sum_of(const char *path)
{
	uint64_t word, sum = 0;
	FILE *f = fopen(path, "r");

	must(f ? 0 : -errno, path);
	while (fread(&word, sizeof(word), 1, f) == 1)
		sum = sum * 31 + word;
	fclose(f);
	return sum;
}

static void show_machines(struct vtd *v)
{
	char registers[2][64] = {};
	unsigned int i;

	for (i = 0; i < 2; i++) {
		FILE *f = fopen(i ? "/sys/class/iommu/dmar0/intel-iommu/ecap" :
				    "/sys/class/iommu/dmar0/intel-iommu/cap", "r");

		if (f && fgets(registers[i], sizeof(registers[i]), f))
			fclose(f);
		registers[i][strcspn(registers[i], "\n")] = 0;
	}
	printf("   the host   this kernel, with a VT-d: cap %s, ecap %s\n", registers[0],
	       registers[1]);
	printf("   QEMU       as Debian ships it, runs the guest by KVM and plays another VT-d\n");
	printf("   the guest  a Linux; its disk is the host's %s, which vfio-pci has given away\n",
	       v->bdf);
}

/* Through the tables of the guest: the page that @iova is. */
static uint64_t stage_1(struct vtd *v, uint64_t root, uint64_t iova)
{
	int level;

	for (level = 4; level >= 1; level--)
		root = *entry_of(v, root, iova >> (12 + 9 * (level - 1)) & 511) & FS_ADDR;
	return root;
}

/* What the disk has put into its queue: how many commands are done. */
static unsigned int completions(const uint64_t *queue)
{
	unsigned int i, done = 0;

	for (i = 0; i < PG / 16; i++)
		done += (queue[2 * i + 1] >> 48 & 1) != 0;
	return done;
}

static void show_queue(struct vtd *v, const unsigned char *memory, uint64_t root,
		       uint64_t ss_root, uint64_t iova)
{
	uint64_t gpa = stage_1(v, root, iova), hpa;
	struct walk walk = read_second_stage(v, gpa);

	printf("   It is where the guest's driver wants to hear from the disk what is done.\n");
	printf("   Each stage-1 entry lies at a GPA, so stage 2 is walked to find it.\n");
	draw_walk(v, root, ss_root, iova);
	hpa = walk_output(&walk, gpa);
	check(physical(memory + gpa) == hpa, "that is where QEMU has this page of the guest");
	printf("   %u commands are done, says what lies there\n", completions((void *)(memory + gpa)));
	check(completions((void *)(memory + gpa)) > 0, "the disk has written it, by DMA");
}

/* Tells QEMU to end, and waits until it did. */
static void end(pid_t pid)
{
	char path[PATH_MAX], state = 0;
	int tries;

	snprintf(path, sizeof(path), "%s/monitor", folder);
	must(sysfs_write(path, "quit\n"), path);
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	for (tries = 0; tries < 600; tries++) {
		FILE *f = fopen(path, "r");

		if (!f || fscanf(f, "%*d (%*[^)]) %c", &state) != 1 || state == 'Z')
			break;
		fclose(f);
		usleep(100000);
	}
	check(tries < 600, "it has ended");
}

int main(int argc, char **argv)
{
	uint64_t root, ss_root = 0, sum, iova;
	unsigned long before, pinned, after;
	unsigned int unmaps, calls;
	unsigned char *memory;
	struct vtd demo, *v = &demo;
	pid_t pid;

	colours = argc > 1 && !strcmp(argv[1], "-c");
	argv += argc - 4;
	vtd_none(v);
	snprintf(v->bdf, sizeof(v->bdf), "%s", argv[0]);
	pid = atoi(argv[1]);
	folder = argv[2];
	before = strtoul(argv[3], NULL, 0);
	pinned = vtd_pinned();
	memory = guest_memory(pid);
	v->mem = memory + GPA_BASE;
	root = said("ROOT ");

	printf("\nA guest's device does DMA by %sGIOVAs%s. The guest's own tables (stage 1) make them\n"
	       "%sGPAs%s, what the guest believes to be memory; those of the kernel under QEMU (stage\n"
	       "2) make those %sHPAs%s: memory. The IOMMU walks both, and QEMU copies no entry.\n",
	       ink(GIOVA), ink(PLAIN), ink(GPA), ink(PLAIN), ink(HPA), ink(PLAIN));

	head("The machines");
	show_machines(v);

	head("What QEMU has asked of /dev/iommu: how often, what for, and the first answer");
	show_calls();

	head("The guest has set its own IOMMU up");
	printf("   in the guest's PASID entry of its disk: stage 1, root %sGPA %#llx%s\n", ink(GPA),
	       (unsigned long long)root, ink(PLAIN));
	check(root && last_line("calls", "HWPT_ALLOC flags=0 ", "pgtbl_addr=") == root,
	      "QEMU has seen it, and asked for stage 1 from there");

	head("What our kernel programmed: PASID entry 0 of the disk");
	show_pasid_entry(v, root, &ss_root);

	iova = said("QUEUE ");
	head("The walk of %sGIOVA %#llx%s", ink(GIOVA), (unsigned long long)iova, ink(PLAIN));
	show_queue(v, memory, root, ss_root, iova);

	head("The disk moves data");
	sum = said("SUM ");
	printf("   the guest has read all its blocks, 4 KiB at a time; they add up to %llx\n",
	       (unsigned long long)sum);
	check(sum && sum == sum_of("/usr/share/qemu/bios-256k.bin"),
	      "so does the file that is the disk");

	head("An unmap in the guest is one invalidation");
	printf("   the last time that the guest took a block's page away, its kernel traced\n");
	iova = last_line("said", "UNMAP ", "iova=");
	printf("   and QEMU asked\n");
	last_line("calls", "HWPT_INVALIDATE ", "addr=");
	unmaps = lines_of("said", "UNMAP ", "iova=", iova);
	calls = lines_of("calls", "HWPT_INVALIDATE ", "addr=", iova);
	printf("   the guest has unmapped %sGIOVA %#llx%s %u times; QEMU asked for it %u times\n",
	       ink(GIOVA), (unsigned long long)iova, ink(PLAIN), unmaps, calls);
	check(unmaps && unmaps == calls, "as often");

	head("QEMU ends");
	end(pid);
	after = vtd_unpinned(before);
	printf("   pinned before: %lu pages, while the guest ran: %lu, now: %lu\n", before, pinned,
	       after);
	check(pinned > before && after == before, "nothing stays behind");

	if (failures)
		printf("\n%s%d of the claims above did not hold.%s\n", ink(BAD), failures,
		       ink(PLAIN));
	else
		printf("\n%sAll of it held.%s\n", ink(GOOD), ink(PLAIN));
	return failures ? 1 : 0;
}
