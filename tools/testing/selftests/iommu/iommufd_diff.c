// SPDX-License-Identifier: GPL-2.0-only
/*
 * Plays operations at random on the mock hardware and says what came of each:
 * the errno, every byte of the answer, what is pinned and charged, and which
 * page is mapped where. Another kernel that is given the same seed must say the
 * same. What is said of a block of operations goes into one number, the lines
 * themselves are printed on demand.
 *
 * DIFF_BLOCKS (60) blocks of DIFF_OPS (1000) operations from block DIFF_FIRST on,
 * of DIFF_SEED (0). DIFF_LINES=1 prints the lines, too. DIFF_RECORDED names a file
 * with the numbers of another run, `BLOCK NUMBER` in each line.
 *
 * Each block is a process with memory, a context and devices of its own, so that
 * it goes the same way however many were before it. Nothing that is said depends
 * on where in physical memory something lies: dirty bits of large entries are asked
 * for where the memory is of hugetlbfs, and where the page core is not told to
 * go in small steps.
 *
 * Failures are injected one after the other until an operation meets none; how
 * many there are is an implementation's own matter, what comes in the end is not.
 * Not when a device is made: the driver core goes on without some of what it wants.
 *
 * Needs CONFIG_IOMMUFD_TEST, 8 free huge pages and debugfs, and no hardware.
 */
#include <sched.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <linux/vfio.h>

/* Made for the harness's fixtures. */
#pragma GCC diagnostic ignored "-Wunused-variable"
#include "iommufd_utils.h"
#include "iommufd_gone.h"

#define MB (1UL << 20)
#define BASE ((uint64_t)MOCK_APERTURE_START)
#define R IOMMU_IOAS_MAP_READABLE
#define W IOMMU_IOAS_MAP_WRITEABLE
#define FIXED IOMMU_IOAS_MAP_FIXED_IOVA

#define IOASES 3
#define AREAS 40
#define HWPTS 8
#define DEVICES 4
#define ACCESSES 4
#define PINS 12
#define GONE 8
#define OTHERS 2

enum kind { ANON, SHARED, MEMFD, COW, READ_ONLY, HOLES, HUGE_ANON, HUGE_MEMFD, THP, KINDS };

/* Memory is at the same address in each run: IOVAs that the kernel chooses depend on it. */
#define MEMORY (1UL << 40)

static struct source {
	const char *name;
	uint8_t *at;
	unsigned long length;
	int prot, flags, fd;
} sources[KINDS] = {
	[ANON] = { "anon", NULL, 64 * PG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS },
	[SHARED] = { "shared", NULL, 64 * PG, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS },
	[MEMFD] = { "memfd", NULL, 64 * PG, PROT_READ | PROT_WRITE, MAP_SHARED },
	[COW] = { "cow", NULL, 32 * PG, PROT_READ | PROT_WRITE, MAP_PRIVATE },
	[READ_ONLY] = { "readonly", NULL, 16 * PG, PROT_READ, MAP_SHARED },
	[HOLES] = { "holes", NULL, 24 * PG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS },
	[HUGE_ANON] = { "hugetlb", NULL, 4 * MB, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB },
	[HUGE_MEMFD] = { "hugefd", NULL, 4 * MB, PROT_READ | PROT_WRITE, MAP_SHARED },
	[THP] = { "thp", NULL, 4 * MB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS },
};

/* Files that are mapped: two of them are memory of this process, too. */
enum { FILE_MEMFD, FILE_HUGE, FILE_READ_ONLY, FILE_SEALED, FILE_DMABUF, FILE_PIPE, FILES };

static const char *const file_names[FILES] = { "memfd", "hugefd", "readonly", "sealed", "dmabuf",
					       "pipe" };
static int files[FILES];

/* What is mapped; `va` is 0 where this process does not have that memory. */
struct area {
	uint64_t iova, length, va;
	bool huge;
};

static struct ioas {
	uint32_t id;
	int areas, gone;
	struct area area[AREAS], was[GONE];
} ioases[IOASES];

static struct hwpt {
	uint32_t id;
	bool huge, tracked;
	struct ioas *ioas;
} hwpts[HWPTS];

static struct device {
	uint32_t stdev, idev;
} devices[DEVICES];

static struct access {
	int fd;
	uint32_t pins[PINS];
	struct ioas *ioas;
} accesses[ACCESSES];

/* Another process with the same descriptors and memory of its own. */
static struct other {
	pid_t pid;
	int in[2], out[2];
} others[OTHERS];

struct errand {
	unsigned long nr;
	long pinned, locked;
	int error;
	uint8_t arg[sizeof(struct iommu_test_cmd)];
};

/* Memory that each process has for itself. */
#define THEIRS (16 * PG)
static uint8_t *theirs;

static struct dice dice, luck;
static int ctx, nth_fd, status_fd;
static struct ioas *compat;
/* Of this operation. */
static bool failing, by_other;
/* Of this block. */
static bool small_steps;
static bool print_lines;
static struct outcome {
	uint64_t sum, injected;
} outcome;
static char line[2048];
static size_t line_length;

#define roll(n) below(&dice, n)

static __printf(1, 2) void say(const char *format, ...)
{
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(line + line_length, sizeof(line) - line_length, format, args);
	va_end(args);
	line_length += n;
	if (line_length >= sizeof(line))
		line_length = sizeof(line) - 1;
}

static uint64_t hash(uint64_t state, const void *data, size_t length)
{
	const uint8_t *byte = data;

	while (length--)
		state = (state ^ *byte++) * 0x100000001b3ULL;
	return state;
}

#define EMPTY 0xcbf29ce484222325ULL

static uint64_t hash_of(const void *data, size_t length)
{
	return hash(EMPTY, data, length);
}

/* By words, for memory. */
static uint64_t hash_memory(uint64_t state, const void *data, size_t length)
{
	const uint64_t *word = data;

	for (length /= 8; length--; word++)
		state = (state ^ *word) * 0x100000001b3ULL;
	return state;
}

static void end_line(void)
{
	outcome.sum = hash(outcome.sum, line, line_length + 1);
	if (print_lines) {
		static unsigned long complained;

		printf("# diff %s\n", line);
		if (complained != complaints())
			printf("# the kernel complained\n");
		complained = complaints();
	}
	line_length = 0;
	line[0] = 0;
}

static long charge(const char *status, const char *name)
{
	const char *at = strstr(status, name);

	return at ? strtol(at + strlen(name), NULL, 10) : -1;
}

static void charges(int fd, long *pinned, long *locked)
{
	char status[4096];
	ssize_t length = pread(fd, status, sizeof(status) - 1, 0);

	status[length < 0 ? 0 : length] = 0;
	*pinned = charge(status, "VmPin:");
	*locked = charge(status, "VmLck:");
}

static int put(const char *file, const char *text)
{
	int fd = open(file, O_WRONLY), ret = fd < 0 || write(fd, text, strlen(text)) < 0;

	if (fd >= 0)
		close(fd);
	return ret;
}

/* Pins that there are, in all; what the processors count for themselves is added up first. */
static long all_pins(void)
{
	put("/proc/sys/vm/stat_refresh", "1");
	return line_of("/proc/vmstat", "nr_foll_pin_acquired ") -
	       line_of("/proc/vmstat", "nr_foll_pin_released ");
}

static void be_the_other(struct other *other)
{
	struct errand errand;
	int status = open("/proc/self/status", O_RDONLY | O_CLOEXEC);

	while (read(other->in[0], &errand, sizeof(errand)) == sizeof(errand) && errand.nr) {
		errand.error = ioctl(ctx, errand.nr, errand.arg) < 0 ? errno : 0;
		charges(status, &errand.pinned, &errand.locked);
		if (write(other->out[1], &errand, sizeof(errand)) != sizeof(errand))
			break;
	}
	_exit(0);
}

static void start_others(void)
{
	for (int i = 0; i < OTHERS; i++) {
		struct other *other = &others[i];

		if (pipe2(other->in, O_CLOEXEC) || pipe2(other->out, O_CLOEXEC))
			exit(2);
		other->pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
		if (!other->pid)
			be_the_other(other);
	}
}

static struct other *the_other(void)
{
	for (int i = 0; i < OTHERS; i++) {
		if (others[i].pid)
			return &others[i];
	}
	return NULL;
}

static void end_other(struct other *other)
{
	struct errand errand = {};

	if (write(other->in[1], &errand, sizeof(errand)) < 0)
		exit(2);
	waitpid(other->pid, NULL, 0);
	other->pid = 0;
}

static void fail_at(unsigned int nth)
{
	char text[16];
	int length = snprintf(text, sizeof(text), "%u", nth);

	/* What fails may be this write. */
	while (pwrite(nth_fd, text, length, 0) != length)
		;
}

/* Whether something failed since. */
static bool failed(void)
{
	char text[16] = "";
	bool did = pread(nth_fd, text, sizeof(text) - 1, 0) < 0 || !atoi(text);

	fail_at(0);
	return did;
}

/* Once more with each time a later failure, until there is none or it does not matter. */
static int call_failing(unsigned long nr, void *arg, size_t size)
{
	uint8_t then[sizeof(struct iommu_test_cmd)];
	int error;

	memcpy(then, arg, size);
	for (unsigned int nth = 1; nth < 2000; nth += 1 + nth / 4 + below(&luck, 2)) {
		bool did;

		memcpy(arg, then, size);
		fail_at(nth);
		error = ioctl(ctx, nr, arg) < 0 ? errno : 0;
		did = failed();
		outcome.injected += did;
		if (!did || !error)
			return error;
	}
	memcpy(arg, then, size);
	return ioctl(ctx, nr, arg) < 0 ? errno : 0;
}

static int call(unsigned long nr, void *arg, size_t size)
{
	struct other *other = by_other ? the_other() : NULL;
	int error;

	if (other) {
		struct errand errand = { .nr = nr };

		memcpy(errand.arg, arg, size);
		if (write(other->in[1], &errand, sizeof(errand)) != sizeof(errand) ||
		    read(other->out[0], &errand, sizeof(errand)) != sizeof(errand))
			exit(2);
		memcpy(arg, errand.arg, size);
		error = errand.error;
		say(" [other: pinned %ld locked %ld]", errand.pinned, errand.locked);
	} else if (failing) {
		error = call_failing(nr, arg, size);
	} else {
		error = ioctl(ctx, nr, arg) < 0 ? errno : 0;
	}
	say(" = %d", error);
	return error;
}

#define CALL(nr, cmd) ((cmd)->size = sizeof(*(cmd)), call(nr, cmd, sizeof(*(cmd))))
#define CALL_TEST(cmd, number) ((cmd)->op = IOMMU_TEST_OP_##number, CALL(IOMMU_TEST_CMD, cmd))

/* Without a word. */
static int ask(struct iommu_test_cmd *cmd, uint32_t op, uint32_t id)
{
	return -test_op(ctx, cmd, op, id);
}

static struct ioas *some_ioas(void)
{
	for (int i = 0; i < 8; i++) {
		struct ioas *ioas = &ioases[roll(IOASES)];

		if (ioas->id)
			return ioas;
	}
	return &ioases[0];
}

static struct hwpt *some_hwpt(void)
{
	for (int i = 0; i < 8; i++) {
		struct hwpt *hwpt = &hwpts[roll(HWPTS)];

		if (hwpt->id)
			return hwpt;
	}
	return NULL;
}

/* One whose dirty bits can be read, most of the time. */
static struct hwpt *some_tracked(void)
{
	struct hwpt *hwpt = NULL;

	for (int i = 0; i < 8 && !(hwpt && hwpt->tracked); i++)
		hwpt = some_hwpt();
	return hwpt;
}

static struct device *some_device(void)
{
	for (int i = 0; i < 8; i++) {
		struct device *device = &devices[roll(DEVICES)];

		if (device->stdev)
			return device;
	}
	return &devices[0];
}

static struct access *some_access(void)
{
	for (int i = 0; i < 8; i++) {
		struct access *access = &accesses[roll(ACCESSES)];

		if (access->fd)
			return access;
	}
	return NULL;
}

static struct area *some_area(struct ioas *ioas)
{
	return ioas->areas ? &ioas->area[roll(ioas->areas)] : NULL;
}

static uint64_t some_iova(struct ioas *ioas)
{
	struct area *area = some_area(ioas);

	switch (roll(40)) {
	case 0: return any(&dice);
	case 1: return UINT64_MAX - roll(4 * PG);
	case 2: return BASE + roll(96) * PG + MOCK_PAGE_SIZE;
	case 3: return BASE + roll(96 * PG);
	case 4: return BASE - roll(4) * PG;
	case 5 ... 10:
		return area ? area->iova + area->length : BASE;
	case 11 ... 13:
		return area ? area->iova + roll(area->length / PG + 1) * PG : BASE;
	case 14 ... 22:
		return BASE + (1 + roll(8)) * 2 * MB;
	default: return BASE + roll(96) * PG;
	}
}

/* What begins in memory of `room` bytes, with a bit of everything that is not a whole page. */
static uint64_t some_length(uint64_t room)
{
	uint64_t pages = room / PG ?: 1;

	switch (roll(40)) {
	case 0: return 0;
	case 1: return any(&dice);
	case 2: return room + roll(3) * PG;
	case 3: return roll(room + 1);
	case 4: return (1 + roll(pages)) * PG - MOCK_PAGE_SIZE;
	case 5 ... 12: return room;
	case 13 ... 20: return (1 + roll(pages)) * PG;
	default: return (1 + roll(pages < 8 ? pages : 8)) * PG;
	}
}

/* A part of a mapping, all of it, or what may be anywhere. */
static void some_range(struct ioas *ioas, uint64_t *iova, uint64_t *length)
{
	struct area *area = some_area(ioas);
	uint64_t skip;

	if (!area || !roll(12)) {
		*iova = some_iova(ioas);
		*length = some_length(16 * PG);
		return;
	}
	skip = roll(3) ? 0 : roll(area->length / PG + 1) * PG;
	if (skip >= area->length)
		skip = 0;
	*iova = area->iova + skip;
	*length = roll(3) ? some_length(area->length - skip) : area->length - skip;
}

static void add_area(struct ioas *ioas, uint64_t iova, uint64_t length, uint64_t va, bool huge)
{
	if (ioas->areas < AREAS)
		ioas->area[ioas->areas++] =
			(struct area){ .iova = iova, .length = length, .va = va, .huge = huge };
}

static int by_iova(const void *a, const void *b)
{
	const struct area *first = a, *second = b;

	return first->iova < second->iova ? -1 : first->iova > second->iova;
}

/* What lies in the range goes, in its order, until something is only partly in it. */
static void remove_areas(struct ioas *ioas, uint64_t iova, uint64_t last)
{
	int kept = 0;
	bool ended = false;

	qsort(ioas->area, ioas->areas, sizeof(ioas->area[0]), by_iova);
	for (int i = 0; i < ioas->areas; i++) {
		struct area *area = &ioas->area[i];
		uint64_t end = area->iova + area->length - 1;

		if (!ended && area->iova >= iova && end <= last) {
			ioas->was[ioas->gone++ % GONE] = *area;
			continue;
		}
		ended |= area->iova <= last && end >= iova;
		ioas->area[kept++] = *area;
	}
	ioas->areas = kept;
}

/* Makes two areas of one that does not end before `iova`. */
static void cut_area(struct ioas *ioas, uint64_t iova)
{
	for (int i = 0; i < ioas->areas; i++) {
		struct area *area = &ioas->area[i];
		uint64_t head = iova - area->iova;

		if (iova <= area->iova || iova > area->iova + area->length - 1 ||
		    ioas->areas == AREAS)
			continue;
		add_area(ioas, iova, area->length - head, area->va ? area->va + head : 0,
			 area->huge);
		area->length = head;
		return;
	}
}

static unsigned int some_flags(void)
{
	return (roll(16) ? R : 0) | (roll(3) ? W : 0) | (roll(5) < 3 ? FIXED : 0) |
	       (roll(200) ? 0 : 1U << roll(32));
}

/* Each room for mappings is bounded, for the time that a look at all of them takes. */
static bool is_full(struct ioas *ioas)
{
	return ioas->areas > AREAS - 8;
}

static void do_map(void)
{
	struct ioas *ioas = some_ioas();
	struct iommu_ioas_map cmd = { .flags = some_flags(), .ioas_id = ioas->id };
	enum kind kind = roll(KINDS);
	struct source *source = &sources[kind];
	uint64_t skip = roll(3) ? 0 : roll(source->length / PG) * PG;

	if (!roll(24))
		skip += roll(2) ? MOCK_PAGE_SIZE : roll(PG);
	cmd.length = some_length(source->length - skip);
	cmd.user_va = (uintptr_t)source->at + skip;
	/* What the kernel must not look at. */
	cmd.iova = some_iova(ioas);
	if (by_other) {
		skip = roll(THEIRS / PG) * PG;
		cmd.user_va = (uintptr_t)theirs + skip;
		cmd.length = some_length(THEIRS - skip);
	}
	if (is_full(ioas))
		return;
	say("map %s+%#llx %#llx at %#llx flags %#x ioas %u", by_other ? "theirs" : source->name,
	    (unsigned long long)skip, (unsigned long long)cmd.length,
	    (unsigned long long)cmd.iova, cmd.flags, cmd.ioas_id);
	if (!CALL(IOMMU_IOAS_MAP, &cmd))
		add_area(ioas, cmd.iova, cmd.length, by_other ? 0 : cmd.user_va,
			 !by_other && (kind == HUGE_ANON || kind == HUGE_MEMFD));
	say(" iova %#llx", (unsigned long long)cmd.iova);
}

static void do_map_file(void)
{
	struct ioas *ioas = some_ioas();
	struct iommu_ioas_map_file cmd = { .flags = some_flags(), .ioas_id = ioas->id };
	int file = roll(3) ? roll(2) : roll(FILES);
	uint64_t room = file == FILE_HUGE ? 4 * MB : file == FILE_MEMFD ? 64 * PG : 8 * PG;
	struct source *source = file == FILE_HUGE ? &sources[HUGE_MEMFD] :
				file == FILE_MEMFD ? &sources[MEMFD] : NULL;

	cmd.start = roll(3) ? 0 : roll(room / PG) * PG;
	if (!roll(24))
		cmd.start += roll(2) ? MOCK_PAGE_SIZE : roll(PG);
	cmd.length = some_length(room - cmd.start);
	cmd.iova = some_iova(ioas);
	cmd.fd = files[file];
	if (is_full(ioas))
		return;
	say("map file %s+%#llx %#llx at %#llx flags %#x ioas %u", file_names[file],
	    (unsigned long long)cmd.start, (unsigned long long)cmd.length,
	    (unsigned long long)cmd.iova, cmd.flags, cmd.ioas_id);
	if (!CALL(IOMMU_IOAS_MAP_FILE, &cmd))
		add_area(ioas, cmd.iova, cmd.length,
			 source ? (uintptr_t)source->at + cmd.start : 0, file == FILE_HUGE);
	say(" iova %#llx", (unsigned long long)cmd.iova);
}

static void do_copy(void)
{
	struct ioas *from = some_ioas(), *to = some_ioas();
	struct iommu_ioas_copy cmd = { .flags = some_flags(), .dst_ioas_id = to->id,
				       .src_ioas_id = from->id };
	uint64_t iova, length, last;

	some_range(from, &iova, &length);
	cmd.src_iova = iova;
	cmd.length = length;
	cmd.dst_iova = some_iova(to);
	if (is_full(to))
		return;
	say("copy %#llx %#llx ioas %u to %#llx ioas %u flags %#x", (unsigned long long)iova,
	    (unsigned long long)length, cmd.src_ioas_id, (unsigned long long)cmd.dst_iova,
	    cmd.dst_ioas_id, cmd.flags);
	if (!CALL(IOMMU_IOAS_COPY, &cmd)) {
		last = iova + length - 1;
		for (int i = 0, n = from->areas; i < n; i++) {
			struct area area = from->area[i];
			uint64_t first = area.iova > iova ? area.iova : iova;
			uint64_t end = area.iova + area.length - 1;

			if (end > last)
				end = last;
			if (first > end)
				continue;
			add_area(to, cmd.dst_iova + (first - iova), end - first + 1,
				 area.va ? area.va + (first - area.iova) : 0, area.huge);
		}
	}
	say(" iova %#llx", (unsigned long long)cmd.dst_iova);
}

static void do_unmap(void)
{
	struct ioas *ioas = some_ioas();
	struct iommu_ioas_unmap cmd = { .ioas_id = ioas->id };
	struct area *area = some_area(ioas);
	uint64_t iova, length;
	int error;

	if (!roll(40)) {
		iova = 0;
		length = UINT64_MAX;
	} else if (area && roll(4)) {
		iova = area->iova;
		length = area->length;
		/* What lies behind it, too. */
		if (!roll(5))
			length += roll(32) * PG;
	} else {
		some_range(ioas, &iova, &length);
	}
	cmd.iova = iova;
	cmd.length = length;
	say("unmap %#llx %#llx ioas %u", (unsigned long long)iova, (unsigned long long)length,
	    cmd.ioas_id);
	error = CALL(IOMMU_IOAS_UNMAP, &cmd);
	say(" length %#llx", (unsigned long long)cmd.length);
	if (length == UINT64_MAX && !iova)
		remove_areas(ioas, 0, UINT64_MAX);
	else if (!error || error == ENOENT)
		remove_areas(ioas, iova, iova + length - 1);
}

static void do_vfio_map(void)
{
	struct source *source = &sources[roll(KINDS)];
	uint64_t skip = roll(source->length / PG) * PG;
	struct vfio_iommu_type1_dma_map cmd = {
		.argsz = sizeof(cmd), .flags = roll(8) ? 1 + roll(3) : roll(8),
		.vaddr = (uintptr_t)source->at + skip,
		.size = some_length(source->length - skip) };

	if (compat && is_full(compat))
		return;
	cmd.iova = some_iova(compat ?: &ioases[0]);
	say("vfio map %s+%#llx %#llx at %#llx flags %#x", source->name, (unsigned long long)skip,
	    (unsigned long long)cmd.size, (unsigned long long)cmd.iova, cmd.flags);
	if (!call(VFIO_IOMMU_MAP_DMA, &cmd, sizeof(cmd)) && compat)
		add_area(compat, cmd.iova, cmd.size, cmd.vaddr,
			 source == &sources[HUGE_ANON] || source == &sources[HUGE_MEMFD]);
}

static void do_vfio_unmap(void)
{
	struct vfio_iommu_type1_dma_unmap cmd = { .argsz = sizeof(cmd),
						  .flags = roll(20) ? 0 : 1U << roll(3) };
	uint64_t iova = 0, length = 0;
	int error;

	if (roll(20))
		some_range(compat ?: &ioases[0], &iova, &length);
	cmd.iova = iova;
	cmd.size = length;
	say("vfio unmap %#llx %#llx flags %#x", (unsigned long long)iova,
	    (unsigned long long)length, cmd.flags);
	error = call(VFIO_IOMMU_UNMAP_DMA, &cmd, sizeof(cmd));
	say(" size %#llx", (unsigned long long)cmd.size);
	if (!compat)
		return;
	if (cmd.flags & VFIO_DMA_UNMAP_FLAG_ALL) {
		if (!error)
			remove_areas(compat, 0, UINT64_MAX);
	} else if (!error || error == ENOENT) {
		/* It can only be part of a mapping where that could be cut. */
		if (!error) {
			cut_area(compat, iova + length);
			cut_area(compat, iova);
		}
		remove_areas(compat, iova, iova + length - 1);
	}
}

static void do_vfio_more(void)
{
	struct ioas *ioas = some_ioas();
	struct iommu_vfio_ioas cmd = { .op = roll(3), .ioas_id = ioas->id };
	uint8_t info[256] = {};
	int error;

	switch (roll(4)) {
	case 0:
		say("vfio ioas op %u id %u", cmd.op, cmd.ioas_id);
		error = CALL(IOMMU_VFIO_IOAS, &cmd);
		say(" id %u", cmd.ioas_id);
		if (error)
			break;
		if (cmd.op == IOMMU_VFIO_IOAS_SET)
			compat = ioas;
		else if (cmd.op == IOMMU_VFIO_IOAS_CLEAR)
			compat = NULL;
		break;
	case 1: {
		unsigned long type = roll(4) ? VFIO_TYPE1_IOMMU + 2 * roll(2) : roll(12);

		say("vfio set %lu = %d", type, ioctl(ctx, VFIO_SET_IOMMU, type) < 0 ? errno : 0);
		break;
	}
	case 2: {
		unsigned long type = roll(12);
		int ret = ioctl(ctx, VFIO_CHECK_EXTENSION, type);

		say("vfio extension %lu = %d %d", type, ret, ret < 0 ? errno : 0);
		break;
	}
	default:
		*(uint32_t *)info = roll(4) ? sizeof(info) : 16 + roll(200);
		say("vfio info of %u", *(uint32_t *)info);
		call(VFIO_IOMMU_GET_INFO, info, sizeof(info));
		say(" %016llx", (unsigned long long)hash_of(info, sizeof(info)));
	}
}

static void do_option(void)
{
	struct iommu_option cmd = { .option_id = roll(6) ? IOMMU_OPTION_HUGE_PAGES :
							   IOMMU_OPTION_RLIMIT_MODE,
				    .op = roll(2), .val64 = roll(8) ? roll(2) : roll(4) };

	cmd.object_id = cmd.option_id == IOMMU_OPTION_HUGE_PAGES ? some_ioas()->id : 0;
	say("option %u op %u id %u value %llu", cmd.option_id, cmd.op, cmd.object_id, cmd.val64);
	CALL(IOMMU_OPTION, &cmd);
	say(" value %llu", cmd.val64);
}

static void do_ranges(void)
{
	struct iommu_iova_range ranges[8] = {};
	struct iommu_ioas_iova_ranges cmd = { .ioas_id = some_ioas()->id, .num_iovas = roll(8),
					      .allowed_iovas = (uintptr_t)ranges };

	say("ranges ioas %u room %u", cmd.ioas_id, cmd.num_iovas);
	CALL(IOMMU_IOAS_IOVA_RANGES, &cmd);
	say(" %u align %llu %016llx", cmd.num_iovas, cmd.out_iova_alignment,
	    (unsigned long long)hash_of(ranges, sizeof(ranges)));
}

static void do_allow(void)
{
	struct iommu_iova_range ranges[2] = { { BASE, MOCK_APERTURE_LAST } };
	struct iommu_ioas_allow_iovas cmd = { .ioas_id = some_ioas()->id, .num_iovas = roll(3),
					      .allowed_iovas = (uintptr_t)ranges };

	if (roll(2))
		ranges[0].start += roll(4) * MB;
	ranges[1].start = BASE + roll(2048) * MB;
	ranges[1].last = ranges[1].start + roll(64) * MB - roll(2);
	say("allow %u of [%#llx, %#llx] [%#llx, %#llx] ioas %u", cmd.num_iovas, ranges[0].start,
	    ranges[0].last, ranges[1].start, ranges[1].last, cmd.ioas_id);
	CALL(IOMMU_IOAS_ALLOW_IOVAS, &cmd);
}

static void do_reserved(void)
{
	struct ioas *ioas = some_ioas();
	struct iommu_test_cmd cmd = {
		.id = ioas->id,
		.add_reserved = { .start = some_iova(ioas), .length = some_length(4 * PG) } };

	say("reserve %#llx %#llx ioas %u", cmd.add_reserved.start, cmd.add_reserved.length, cmd.id);
	CALL_TEST(&cmd, ADD_RESERVED);
}

static struct ioas *ioas_of(uint32_t id)
{
	for (int i = 0; i < IOASES; i++) {
		if (id && ioases[i].id == id)
			return &ioases[i];
	}
	return NULL;
}

static void remember_hwpt(uint32_t id, struct ioas *ioas, bool huge, bool tracked)
{
	struct hwpt *place = NULL;

	for (int i = 0; i < HWPTS; i++) {
		if (hwpts[i].id == id)
			return;
		if (!hwpts[i].id)
			place = &hwpts[i];
	}
	if (place)
		*place = (struct hwpt){ .id = id, .ioas = ioas, .huge = huge, .tracked = tracked };
}

static uint32_t some_target(void)
{
	struct hwpt *hwpt = some_hwpt();

	return hwpt && roll(3) ? hwpt->id : some_ioas()->id;
}

static void do_device(void)
{
	struct iommu_test_cmd cmd = { .id = some_target() };
	uint32_t target = cmd.id;

	cmd.mock_domain_flags.dev_flags = roll(4) ? 0 : MOCK_FLAGS_DEVICE_NO_DIRTY;
	for (int i = 0; i < DEVICES; i++) {
		if (devices[i].stdev)
			continue;
		say("device on %u flags %u", cmd.id, cmd.mock_domain_flags.dev_flags);
		if (!CALL_TEST(&cmd, MOCK_DOMAIN_FLAGS)) {
			devices[i].stdev = cmd.mock_domain_flags.out_stdev_id;
			devices[i].idev = cmd.mock_domain_flags.out_idev_id;
			if (ioas_of(target))
				remember_hwpt(cmd.mock_domain_flags.out_hwpt_id, ioas_of(target),
					      false, false);
			say(" %u %u %u", devices[i].stdev, devices[i].idev,
			    cmd.mock_domain_flags.out_hwpt_id);
		}
		return;
	}
}

static void do_replace(void)
{
	struct iommu_test_cmd cmd = { .id = some_device()->stdev,
				      .mock_domain_replace = { .pt_id = some_target() } };
	uint32_t target = cmd.mock_domain_replace.pt_id;

	/* Of an IOAS's hwpts the next one is tried where one refuses. */
	failing &= !ioas_of(target);
	say("replace %u on %u", target, cmd.id);
	if (!CALL_TEST(&cmd, MOCK_DOMAIN_REPLACE) && ioas_of(target))
		remember_hwpt(cmd.mock_domain_replace.pt_id, ioas_of(target), false, false);
	say(" %u", cmd.mock_domain_replace.pt_id);
}

static int do_destroy(uint32_t id)
{
	struct iommu_destroy cmd = { .id = id };

	say("destroy %u", id);
	return CALL(IOMMU_DESTROY, &cmd);
}

static void do_destroy_device(void)
{
	struct device *device = some_device();

	if (!do_destroy(device->stdev))
		*device = (struct device){};
}

static void do_hwpt(void)
{
	struct iommu_hwpt_selftest data = {};
	struct ioas *ioas = some_ioas();
	struct iommu_hwpt_alloc cmd = {
		.flags = roll(2) ? IOMMU_HWPT_ALLOC_DIRTY_TRACKING : roll(2) ?
			IOMMU_HWPT_ALLOC_NEST_PARENT : 0,
		.dev_id = some_device()->idev, .pt_id = ioas->id,
		.data_type = IOMMU_HWPT_DATA_SELFTEST, .data_len = sizeof(data),
		.data_uptr = (uintptr_t)&data };

	data.pagetable_type = roll(3) ? MOCK_IOMMUPT_DEFAULT : MOCK_IOMMUPT_HUGE;
	if (data.pagetable_type == MOCK_IOMMUPT_HUGE && small_steps)
		cmd.flags = 0;
	say("hwpt type %u flags %u ioas %u device %u", data.pagetable_type, cmd.flags, cmd.pt_id,
	    cmd.dev_id);
	if (!CALL(IOMMU_HWPT_ALLOC, &cmd))
		remember_hwpt(cmd.out_hwpt_id, ioas, data.pagetable_type == MOCK_IOMMUPT_HUGE,
			      cmd.flags & IOMMU_HWPT_ALLOC_DIRTY_TRACKING);
	say(" %u", cmd.out_hwpt_id);
}

static void do_destroy_hwpt(void)
{
	struct hwpt *hwpt = some_hwpt();

	if (hwpt && !do_destroy(hwpt->id))
		hwpt->id = 0;
}

static void do_ioas(void)
{
	struct ioas *ioas = &ioases[roll(IOASES)];
	struct iommu_ioas_alloc cmd = {};

	if (ioas->id) {
		if (!do_destroy(ioas->id)) {
			*ioas = (struct ioas){};
			if (compat == ioas)
				compat = NULL;
			for (int i = 0; i < HWPTS; i++) {
				if (hwpts[i].ioas == ioas)
					hwpts[i].id = 0;
			}
		}
		say(";");
	}
	if (!ioas->id) {
		say(" new ioas");
		if (!CALL(IOMMU_IOAS_ALLOC, &cmd))
			*ioas = (struct ioas){ .id = cmd.out_ioas_id };
		say(" %u", cmd.out_ioas_id);
	}
}

static void do_access(void)
{
	struct ioas *ioas = some_ioas();
	struct iommu_test_cmd cmd = { .id = ioas->id, .create_access = { .flags = roll(4) > 0 } };

	for (int i = 0; i < ACCESSES; i++) {
		if (accesses[i].fd)
			continue;
		say("access ioas %u flags %u", cmd.id, cmd.create_access.flags);
		if (!CALL_TEST(&cmd, CREATE_ACCESS)) {
			accesses[i] = (struct access){ .ioas = ioas,
						       .fd = cmd.create_access.out_access_fd };
			memset(accesses[i].pins, 0xff, sizeof(accesses[i].pins));
			say(" number %d", i);
		}
		return;
	}
}

static void do_close_access(void)
{
	struct access *access = some_access();

	if (!access)
		return;
	say("close access %td", access - accesses);
	close(access->fd);
	access->fd = 0;
}

static void do_pin(void)
{
	struct access *access = some_access();
	struct iommu_test_cmd cmd = { .access_pages = { .flags = roll(2) } };
	uint64_t iova, length;
	int place = roll(PINS);

	if (!access)
		return;
	some_range(access->ioas, &iova, &length);
	cmd.id = access->fd;
	cmd.access_pages.iova = iova;
	cmd.access_pages.length = length;
	for (int i = 0; i < access->ioas->areas && roll(4); i++) {
		struct area *area = &access->ioas->area[i];

		/* That these are the pages is checked by the mock driver. */
		if (area->va && iova >= area->iova && iova < area->iova + area->length &&
		    length <= area->iova + area->length - iova)
			cmd.access_pages.uptr = area->va + (iova - area->iova);
	}
	say("pin %#llx %#llx access %td flags %u%s", (unsigned long long)iova,
	    (unsigned long long)length, access - accesses, cmd.access_pages.flags,
	    cmd.access_pages.uptr ? " checked" : "");
	if (!CALL_TEST(&cmd, ACCESS_PAGES)) {
		say(" %u", cmd.access_pages.out_access_pages_id);
		access->pins[place] = cmd.access_pages.out_access_pages_id;
	}
}

static void do_unpin(void)
{
	struct access *access = some_access();
	struct iommu_test_cmd cmd = {};

	if (!access)
		return;
	cmd.id = access->fd;
	for (int i = 0; i < 8; i++) {
		int place = roll(PINS);

		if (access->pins[place] == UINT32_MAX)
			continue;
		cmd.destroy_access_pages.access_pages_id = access->pins[place];
		access->pins[place] = UINT32_MAX;
		say("unpin %u access %td", cmd.destroy_access_pages.access_pages_id,
		    access - accesses);
		CALL_TEST(&cmd, DESTROY_ACCESS_PAGES);
		return;
	}
}

static void do_rw(void)
{
	static uint8_t bytes[8 * 4096 + 64];
	struct access *access = some_access();
	struct iommu_test_cmd cmd = { .access_rw = { .uptr = (uintptr_t)bytes + 32,
						     .flags = roll(2) | (roll(4) ? 0 : 4) } };
	uint64_t iova, length, value = any(&dice);

	if (!access)
		return;
	some_range(access->ioas, &iova, &length);
	cmd.id = access->fd;
	cmd.access_rw.iova = iova + (roll(4) ? roll(PG) : 0);
	length = roll(4) ? 1 + roll(256) : 1 + roll(8 * PG);
	cmd.access_rw.length = length;
	for (size_t i = 0; i < sizeof(bytes); i += 8)
		memcpy(bytes + i, &value, 8);
	say("rw %#llx %#llx access %td flags %u", cmd.access_rw.iova, (unsigned long long)length,
	    access - accesses, cmd.access_rw.flags);
	CALL_TEST(&cmd, ACCESS_RW);
	say(" %016llx", (unsigned long long)hash_memory(EMPTY, bytes, sizeof(bytes)));
}

static void do_replace_access(void)
{
	struct access *access = some_access();
	struct ioas *ioas = some_ioas();
	struct iommu_test_cmd cmd = { .access_replace_ioas = { .ioas_id = ioas->id } };

	if (!access)
		return;
	cmd.id = access->fd;
	say("access %td to ioas %u", access - accesses, ioas->id);
	if (!CALL_TEST(&cmd, ACCESS_REPLACE_IOAS))
		access->ioas = ioas;
}

static void do_tracking(void)
{
	struct hwpt *hwpt = some_tracked();
	struct iommu_hwpt_set_dirty_tracking cmd = { .flags = roll(4) > 0 };

	if (!hwpt)
		return;
	cmd.hwpt_id = hwpt->id;
	say("tracking %u hwpt %u", cmd.flags, cmd.hwpt_id);
	CALL(IOMMU_HWPT_SET_DIRTY_TRACKING, &cmd);
}

static void do_dirty(void)
{
	struct hwpt *hwpt = some_tracked();
	struct iommu_test_cmd cmd = {};
	/* Large entries are the same everywhere where the memory is physically contiguous. */
	struct area *area = hwpt ? some_area(hwpt->ioas) : NULL;
	uint64_t bitmap[4] = { any(&dice), any(&dice) & any(&dice), any(&dice), 0 };

	if (!area || area->length < PG || (hwpt->huge && !area->huge))
		return;
	cmd.id = hwpt->id;
	cmd.dirty.iova = area->iova + roll(area->length / PG) * PG;
	cmd.dirty.page_size = PG >> roll(2);
	cmd.dirty.length = area->iova + area->length - cmd.dirty.iova;
	if (cmd.dirty.length > 128 * cmd.dirty.page_size)
		cmd.dirty.length = (1 + roll(128)) * cmd.dirty.page_size;
	cmd.dirty.uptr = (uintptr_t)bitmap;
	say("dirty %#llx %#llx by %llu hwpt %u", cmd.dirty.iova, cmd.dirty.length,
	    cmd.dirty.page_size, cmd.id);
	CALL_TEST(&cmd, DIRTY);
	say(" %llu", cmd.dirty.out_nr_dirty);
}

static void do_read_dirty(void)
{
	static uint8_t bitmap[4096];
	struct hwpt *hwpt = some_tracked();
	struct iommu_hwpt_get_dirty_bitmap cmd = { .flags = roll(3) ? 0 : 1,
						   .page_size = PG >> roll(2),
						   .data = (uintptr_t)bitmap + 64 };
	uint64_t iova, length;

	if (!hwpt)
		return;
	some_range(hwpt->ioas, &iova, &length);
	if (!roll(4)) {
		iova = BASE;
		length = 32 * MB;
	}
	if (!roll(8))
		cmd.page_size = 1ULL << roll(roll(4) ? 22 : 64);
	/* The bitmap has room for it. */
	if (length / cmd.page_size > 8 * (sizeof(bitmap) - 128)) {
		cmd.page_size = PG;
		if (length > 64 * MB)
			length = 64 * MB;
	}
	cmd.hwpt_id = hwpt->id;
	cmd.iova = iova;
	cmd.length = length;
	memset(bitmap, 0x11, sizeof(bitmap));
	say("read dirty %#llx %#llx by %#llx hwpt %u flags %u", (unsigned long long)iova,
	    (unsigned long long)length, cmd.page_size, cmd.hwpt_id, cmd.flags);
	CALL(IOMMU_HWPT_GET_DIRTY_BITMAP, &cmd);
	say(" %016llx", (unsigned long long)hash_memory(EMPTY, bitmap, sizeof(bitmap)));
}

static void do_change_process(void)
{
	struct iommu_ioas_change_process cmd = {};

	say("change process");
	CALL(IOMMU_IOAS_CHANGE_PROCESS, &cmd);
}

static void do_end_other(void)
{
	struct other *other = the_other();

	if (!other)
		return;
	say("the other process ends");
	end_other(other);
}

static void do_limit(void)
{
	struct rlimit limit;

	getrlimit(RLIMIT_MEMLOCK, &limit);
	limit.rlim_cur = roll(2) ? RLIM_INFINITY : roll(2) ? roll(64) * PG : roll(4096) * PG;
	say("limit %ld = %d", (long)limit.rlim_cur, setrlimit(RLIMIT_MEMLOCK, &limit));
}

static void do_steps(void)
{
	struct iommu_test_cmd cmd = {};

	if (!small_steps)
		return;
	cmd.memory_limit.limit = roll(2) ? 65536 : roll(300);
	say("steps %u", cmd.memory_limit.limit);
	CALL_TEST(&cmd, SET_TEMP_MEMORY_LIMIT);
}

static void do_revoke(void)
{
	struct iommu_test_cmd cmd = { .dmabuf_revoke = { .dmabuf_fd = files[FILE_DMABUF],
							 .revoked = roll(2) } };

	say("revoke %u", cmd.dmabuf_revoke.revoked);
	CALL_TEST(&cmd, DMABUF_REVOKE);
}

/* Other memory at the same place; what is pinned stays what it was. */
static void do_other_memory(void)
{
	struct source *source = &sources[roll(KINDS)];
	uint64_t skip = roll(source->length / PG) * PG;

	if (source->length > MB)
		skip = roll(2) * 2 * MB;
	if (source->fd && !(source->flags & MAP_PRIVATE) && source->prot & PROT_WRITE) {
		uint64_t step = source->length > MB ? 2 * MB : PG;

		say("hole in %s+%#llx = %d", source->name, (unsigned long long)skip,
		    fallocate(source->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, skip, step));
		return;
	}
	if (source->length > MB || source == &sources[HOLES])
		return;
	say("new memory %s+%#llx = %d", source->name, (unsigned long long)skip,
	    mmap(source->at + skip, PG, source->prot, source->flags | MAP_FIXED,
		 source->fd ?: -1, source->fd ? skip : 0) == MAP_FAILED);
}

static const struct {
	void (*run)(void);
	int weight;
	/* What is done for another process, and where failures are wanted, all at times. */
	bool other, fails;
} operations[] = {
	{ do_map, 170, true, true },
	{ do_map_file, 100, true, true },
	{ do_copy, 110, true, true },
	{ do_unmap, 170, true, true },
	{ do_vfio_map, 30, false, true },
	{ do_vfio_unmap, 45, false, true },
	{ do_vfio_more, 20, false, false },
	{ do_option, 14, false, true },
	{ do_ranges, 15, false, true },
	{ do_allow, 6, false, true },
	{ do_reserved, 6, false, true },
	{ do_device, 8, false, false },
	{ do_replace, 30, true, true },
	{ do_destroy_device, 4, false, false },
	{ do_hwpt, 25, true, true },
	{ do_destroy_hwpt, 15, true, true },
	{ do_ioas, 10, false, true },
	{ do_access, 12, false, true },
	{ do_close_access, 4, false, false },
	{ do_pin, 70, true, true },
	{ do_unpin, 55, true, true },
	{ do_rw, 80, true, true },
	{ do_replace_access, 14, true, true },
	{ do_tracking, 15, false, true },
	{ do_dirty, 25, false, true },
	{ do_read_dirty, 30, false, true },
	{ do_change_process, 10, true, true },
	{ do_end_other, 1, false, false },
	{ do_limit, 10, false, false },
	{ do_steps, 10, false, false },
	{ do_revoke, 4, false, false },
	{ do_other_memory, 14, false, false },
};

static int check_map(uint32_t hwpt, uint64_t iova, uint64_t va, uint64_t length)
{
	struct iommu_test_cmd cmd = { .check_map = { .iova = iova, .uptr = va, .length = length } };

	return ask(&cmd, IOMMU_TEST_OP_MD_CHECK_MAP, hwpt);
}

/* Of what has pages of this process. Of much memory, both ends and something between. */
static void check_area(struct hwpt *hwpt, const struct area *area)
{
	uint64_t middle = area->length / PG / 2 * PG;

	if (!area->va)
		return;
	if (area->length <= 8 * PG) {
		say(" %d", check_map(hwpt->id, area->iova, area->va, area->length));
		return;
	}
	say(" %d,%d,%d", check_map(hwpt->id, area->iova, area->va, 2 * PG),
	    check_map(hwpt->id, area->iova + middle, area->va + middle, PG),
	    check_map(hwpt->id, area->iova + area->length - PG, area->va + area->length - PG, PG));
}

static bool is_mapped(struct ioas *ioas, uint64_t iova)
{
	for (int i = 0; i < ioas->areas; i++) {
		if (iova >= ioas->area[i].iova && iova - ioas->area[i].iova < ioas->area[i].length)
			return true;
	}
	return false;
}

/* The pins of a page: others than small pages say nothing. */
static int refs(uint8_t *page, unsigned long length)
{
	for (int n = 0; n < 40; n++) {
		struct iommu_test_cmd cmd = {
			.check_refs = { .uptr = (uintptr_t)page, .length = length, .refs = n } };
		int error = ask(&cmd, IOMMU_TEST_OP_MD_CHECK_REFS, 0);

		if (error != EIO)
			return error ? -error : n;
		if (length > PG)
			return -1;
	}
	return -1;
}

/* Something about what there is now, after each operation. */
static void glance(void)
{
	struct hwpt *hwpt = some_hwpt();
	struct area *area = hwpt ? some_area(hwpt->ioas) : NULL;
	struct source *source = &sources[roll(HUGE_ANON)];
	unsigned long page = roll(source->length / PG);

	say(" |");
	if (area)
		check_area(hwpt, area);
	say(" pins %s+%lu %d", source->name, page, refs(source->at + page * PG, PG));
}

static void say_charges(void)
{
	long pinned, locked;

	charges(status_fd, &pinned, &locked);
	say(" pinned %ld locked %ld", pinned, locked);
}

/* Everything. */
static void inspect(void)
{
	for (int i = 0; i < HWPTS; i++) {
		struct hwpt *hwpt = &hwpts[i];
		struct ioas *ioas = hwpt->ioas;
		int error;

		if (!hwpt->id)
			continue;
		error = check_map(hwpt->id, 0, 0, 0);
		say("look hwpt %u %d:", hwpt->id, error);
		if (error) {
			/* It went with the last device. */
			hwpt->id = 0;
			end_line();
			continue;
		}
		for (int n = 0; n < ioas->areas; n++)
			check_area(hwpt, &ioas->area[n]);
		say(" gone:");
		for (int n = 0; n < GONE; n++) {
			struct area *was = &ioas->was[n];
			uint64_t last = was->iova + was->length - PG;

			if (!was->va || was->length < PG)
				continue;
			if (!is_mapped(ioas, was->iova))
				say(" %d", check_map(hwpt->id, was->iova, was->va, PG));
			if (!is_mapped(ioas, last))
				say(" %d", check_map(hwpt->id, last, was->va + was->length - PG,
						     PG));
		}
		end_line();
	}
	say("look pins");
	for (enum kind kind = 0; kind < HUGE_ANON; kind++) {
		struct source *source = &sources[kind];

		if (kind == HOLES || refs(source->at, source->length) == -1) {
			for (unsigned long page = 0; page < source->length / PG; page++)
				say(" %d", refs(source->at + page * PG, PG));
		}
		say(";");
	}
	say_charges();
	say(" all pins %ld", all_pins());
	end_line();
}

static int new_memfd(unsigned long length, unsigned int flags)
{
	int fd = memfd_create("diff", MFD_CLOEXEC | flags);

	if (fd < 0 || ftruncate(fd, length))
		exit(3);
	return fd;
}

static void make_memory(void)
{
	sources[MEMFD].fd = new_memfd(64 * PG, MFD_ALLOW_SEALING);
	sources[COW].fd = new_memfd(32 * PG, 0);
	sources[READ_ONLY].fd = new_memfd(16 * PG, 0);
	sources[HUGE_MEMFD].fd = new_memfd(4 * MB, MFD_HUGETLB);
	for (enum kind kind = 0; kind < KINDS; kind++) {
		struct source *source = &sources[kind];

		source->at = mmap((void *)MEMORY + kind * 16 * MB, source->length,
				  source->prot, source->flags | MAP_FIXED_NOREPLACE | MAP_POPULATE,
				  source->fd ?: -1, 0);
		if (source->at == MAP_FAILED)
			exit(3);
	}
	munmap(sources[HOLES].at + 5 * PG, PG);
	mprotect(sources[HOLES].at + 13 * PG, PG, PROT_NONE);
	files[FILE_MEMFD] = sources[MEMFD].fd;
	files[FILE_HUGE] = sources[HUGE_MEMFD].fd;
	files[FILE_SEALED] = new_memfd(8 * PG, MFD_ALLOW_SEALING);
	fcntl(files[FILE_SEALED], F_ADD_SEALS, F_SEAL_WRITE);
	files[FILE_READ_ONLY] = open("/dev/shm/diff", O_RDONLY | O_CREAT | O_CLOEXEC, 0600);
	if (files[FILE_READ_ONLY] < 0 || truncate("/dev/shm/diff", 8 * PG))
		exit(3);
	files[FILE_PIPE] = nth_fd;
	if (_test_cmd_get_dmabuf(ctx, 8 * PG, &files[FILE_DMABUF]))
		exit(3);
}

static void furnish(void)
{
	struct iommu_option mode = { .option_id = IOMMU_OPTION_RLIMIT_MODE,
				     .op = IOMMU_OPTION_OP_SET, .val64 = 1 };

	if (roll(3)) {
		say("charges to the process");
		CALL(IOMMU_OPTION, &mode);
		end_line();
	}
	for (int i = 0; i < IOASES; i++) {
		do_ioas();
		end_line();
	}
	for (int i = 0; i < 2; i++) {
		do_device();
		end_line();
		do_hwpt();
		end_line();
	}
}

static void one(int number)
{
	static int total;
	int n, i;

	for (size_t j = 0; !number && j < ARRAY_SIZE(operations); j++)
		total += operations[j].weight;
	n = roll(total);
	for (i = 0; n >= operations[i].weight; i++)
		n -= operations[i].weight;
	say("%d ", number);
	by_other = operations[i].other && !roll(24);
	failing = operations[i].fails && !roll(24);
	operations[i].run();
	by_other = false;
	failing = false;
	glance();
	if (!(number % 8))
		say_charges();
	end_line();
	if (number % 64 == 63)
		inspect();
}

/* One block, in a process of its own. */
static void block(uint64_t seed, uint64_t number, int count)
{
	struct iommu_test_cmd steps = { .memory_limit = { .limit = 65536 } };
	uint64_t memory = EMPTY;

	seed_dice(&dice, seed, number);
	seed_dice(&luck, seed, ~number);
	outcome = (struct outcome){ .sum = EMPTY };
	ctx = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	nth_fd = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	status_fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	if (ctx < 0 || nth_fd < 0 || status_fd < 0)
		exit(3);
	small_steps = !roll(4);
	theirs = mmap((void *)MEMORY + KINDS * 16 * MB, THEIRS, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (theirs == MAP_FAILED)
		exit(3);
	start_others();
	make_memory();
	ask(&steps, IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT, 0);
	furnish();
	for (int i = 0; i < count; i++)
		one(i);
	inspect();
	ask(&steps, IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT, 0);
	for (int i = 0; i < ACCESSES; i++) {
		if (accesses[i].fd)
			close(accesses[i].fd);
	}
	close(ctx);
	say("closed");
	say_charges();
	say(" all pins %ld", all_pins());
	end_line();
	for (enum kind kind = 0; kind < KINDS; kind++) {
		if (kind != HOLES)
			memory = hash_memory(memory, sources[kind].at, sources[kind].length);
	}
	say("memory %016llx", (unsigned long long)memory);
	end_line();
	for (int i = 0; i < OTHERS; i++) {
		if (others[i].pid)
			end_other(&others[i]);
	}
}

static bool run_block(uint64_t seed, uint64_t number, int count)
{
	int status, back[2];
	bool done;
	pid_t pid;

	fflush(stdout);
	if (pipe(back))
		return false;
	pid = fork();
	if (!pid) {
		block(seed, number, count);
		fflush(stdout);
		_exit(write(back[1], &outcome, sizeof(outcome)) != sizeof(outcome));
	}
	close(back[1]);
	done = read(back[0], &outcome, sizeof(outcome)) == sizeof(outcome);
	close(back[0]);
	waitpid(pid, &status, 0);
	if (!done || status)
		printf("# block %llu ended with %#x\n", (unsigned long long)number, status);
	return done && !status;
}

/* What another run found; 0: it did not play that block. */
static uint64_t recorded(const char *path, uint64_t wanted)
{
	unsigned long long number, value;
	uint64_t found = 0;
	FILE *file = path ? fopen(path, "r") : NULL;

	while (file && fscanf(file, "%llu %llx", &number, &value) == 2) {
		if (number == wanted)
			found = value;
	}
	if (file)
		fclose(file);
	return found;
}

FIXTURE(diff)
{
	struct before before;
};

FIXTURE_SETUP(diff)
{
	static const char *const knobs[][2] = {
		{ "failslab/ignore-gfp-wait", "N" },
		{ "failslab/verbose", "0" },
		{ "fail_page_alloc/ignore-gfp-wait", "N" },
		{ "fail_page_alloc/min-order", "0" },
		{ "fail_page_alloc/verbose", "0" },
		{ "fail_iommufd/verbose", "0" },
	};
	char path[64];

	if (access("/dev/iommu", R_OK | W_OK))
		SKIP(return, "no /dev/iommu: %s", strerror(errno));
	for (size_t i = 0; i < ARRAY_SIZE(knobs); i++) {
		snprintf(path, sizeof(path), "/sys/kernel/debug/%s", knobs[i][0]);
		ASSERT_EQ(0, put(path, knobs[i][1]))
			TH_LOG("%s: %s", path, strerror(errno));
	}
	ASSERT_TRUE(may_not_lock());
	note(&self->before);
}

FIXTURE_TEARDOWN(diff)
{
}

TEST_F_TIMEOUT(diff, blocks, 100000)
{
	uint64_t first = setting("DIFF_FIRST", 0), count = setting("DIFF_BLOCKS", 60);
	uint64_t seed = setting("DIFF_SEED", 0), ops = setting("DIFF_OPS", 1000), injected = 0;
	const char *path = getenv("DIFF_RECORDED"), *left;
	double start = seconds();
	long pins = all_pins();
	void *memory = mmap(NULL, 16 * PG, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
			    0);

	print_lines = setting("DIFF_LINES", 0);
	TH_LOG("%llu operations, DIFF_SEED=%llu", (unsigned long long)(count * ops),
	       (unsigned long long)seed);
	for (uint64_t number = first; number < first + count; number++) {
		uint64_t wanted = recorded(path, number);

		ASSERT_TRUE(run_block(seed, number, ops));
		injected += outcome.injected;
		printf("# block %llu %016llx\n", (unsigned long long)number,
		       (unsigned long long)outcome.sum);
		ASSERT_EQ(pins, all_pins())
			TH_LOG("pins are left of block %llu", (unsigned long long)number);
		if (!(number % 16)) {
			/* Who boots a kernel looks at its log. */
			self->before.complaints = complaints();
			left = left_behind(&self->before, memory, 16 * PG);
			ASSERT_EQ(NULL, left)
				TH_LOG("block %llu left %s", (unsigned long long)number, left);
		}
		if (!path)
			continue;
		EXPECT_EQ(wanted, outcome.sum)
			TH_LOG("block %llu is not as recorded", (unsigned long long)number);
	}
	TH_LOG("%llu failures injected, %.0f s", (unsigned long long)injected, seconds() - start);
	EXPECT_LT(0, injected);
}

TEST_HARNESS_MAIN
