// SPDX-License-Identifier: GPL-2.0-only
/*
 * What an operation on /dev/iommu costs, on the mock device.
 *
 * usage: iommufd_bench [NAME...]          nanoseconds for each operation
 *        iommufd_bench -m [NAME...]       kernel allocations for each operation
 *        iommufd_bench -t N -s S NAME     operations/s of N threads over S s
 *        iommufd_bench -l                 the names
 *
 * One line each: `BENCH,name,unit,value`. Under an emulator that lets guest
 * time count instructions (QEMU's -icount shift=0), a nanosecond is one
 * instruction, user and kernel together.
 */
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

/* Made for the harness's fixtures, of which there are none here. */
#pragma GCC diagnostic ignored "-Wunused-variable"
#include <linux/vfio.h>

#include "iommufd_utils.h"
#include "iommufd_bench.h"

#define KIB 1024UL
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define PG 4096UL
/* The mock hardware translates from 16 MiB to 2 GiB. */
#define IOVA (16 * MIB)

/* What one operation works on; each thread has its own but for the context. */
struct ctx {
	int fd;
	__u32 ioas, ioas2, stdev, idev, hwpt;
	__u32 parent, nested, nested2, viommu, vdevice;
	__u32 queue, queue_fd;
	__u64 length, step;
	char *memory;
	int memfd;
	__u64 *bitmap;
	struct iommu_hwpt_invalidate_selftest *reqs;
	__u32 nreqs;
};

/* How the pages of some memory lie, which decides more than any code. */
enum layout {
	/* Of 4 KiB, no two neighbours. */
	SCATTERED,
	/* Transparent huge pages of 2 MiB. */
	THP,
	HUGETLB,
};

struct bench {
	const char *name, *unit;
	void (*setup)(struct ctx *c, const struct bench *b);
	void (*run)(void *ctx);
	unsigned int count;	/* operations that are measured */
	unsigned int per;	/* the value is for each of so many */
	__u64 length;		/* of memory, where some is mapped */
	enum layout layout;
	__u64 step;		/* see the set-ups */
};

static void destroy(struct ctx *c, __u32 id)
{
	must(_test_ioctl_destroy(c->fd, id));
}

static void map_at(struct ctx *c, __u32 ioas, void *from, __u64 length, __u64 iova)
{
	must(_test_ioctl_ioas_map(c->fd, ioas, from, length, &iova,
				  IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_WRITEABLE |
				  IOMMU_IOAS_MAP_READABLE));
}

static void unmap_at(struct ctx *c, __u32 ioas, __u64 iova, __u64 length)
{
	must(_test_ioctl_ioas_unmap(c->fd, ioas, iova, length, NULL));
}

static __u32 nested_on(struct ctx *c, __u32 parent, __u32 flags)
{
	struct iommu_hwpt_selftest data = { .iotlb = IOMMU_TEST_IOTLB_DEFAULT };
	__u32 id;

	must(_test_cmd_hwpt_alloc(c->fd, c->idev, parent, 0, flags, &id,
				  IOMMU_HWPT_DATA_SELFTEST, &data, sizeof(data)));
	return id;
}

static __u32 paging(struct ctx *c, __u32 flags)
{
	__u32 id;

	must(_test_cmd_hwpt_alloc(c->fd, c->idev, c->ioas, 0, flags, &id,
				  IOMMU_HWPT_DATA_NONE, NULL, 0));
	return id;
}

/* Set-ups */

/* The page to touch as the n-th, so that neighbours are none in memory. */
static __u64 nth_page(__u64 n, __u64 length)
{
	return n * 4099 % (length / PG);
}

/* A row is worth nothing where the pages do not lie as its name says. */
static void check_layout(char *memory, __u64 length, enum layout layout)
{
	__u64 pages = length / PG, huge = 2 * MIB / PG, frame, last = 0, neighbours = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY);

	must(fd < 0);
	for (__u64 i = 0; i < pages; i++) {
		must(pread(fd, &frame, sizeof(frame), ((uintptr_t)memory / PG + i) * 8) != 8);
		frame &= (1ULL << 55) - 1;
		must(!frame);
		neighbours += i && frame == last + 1;
		must(layout != SCATTERED && i % huge && frame != last + 1);
		last = frame;
	}
	must(layout == SCATTERED && neighbours > pages / 50);
	close(fd);
}

static char *new_memory(__u64 length, enum layout layout)
{
	__u64 room = layout == THP ? length + 2 * MIB : length;
	char *memory;

	must(prctl(PR_SET_THP_DISABLE, layout != THP, 0, 0, 0));
	memory = mmap(NULL, room, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | (layout == HUGETLB ? MAP_HUGETLB : 0), -1, 0);
	must(memory == MAP_FAILED);
	if (layout == THP) {
		/* What is not of a whole huge page goes back. */
		char *begin = (char *)(((uintptr_t)memory + 2 * MIB - 1) & -(2 * MIB));

		must(begin > memory && munmap(memory, begin - memory));
		must(munmap(begin + length, memory + room - begin - length));
		memory = begin;
	}
	for (__u64 i = 0; i < length / PG; i++)
		memory[nth_page(i, length) * PG] = 1;
	check_layout(memory, length, layout);
	return memory;
}

static void with_ioas(struct ctx *c, const struct bench *b)
{
	must(_test_ioctl_ioas_alloc(c->fd, &c->ioas));
	c->length = b->length;
	c->step = b->step;
	if (b->length)
		c->memory = new_memory(b->length, b->layout);
}

static void with_device(struct ctx *c, const struct bench *b)
{
	with_ioas(c, b);
	must(_test_cmd_mock_domain_flags(c->fd, c->ioas, MOCK_FLAGS_DEVICE_PASID, &c->stdev,
					 &c->hwpt, &c->idev));
}

/* As a user of VFIO's type 1 IOMMU has it, whose version is b->step. */
static void with_type1(struct ctx *c, const struct bench *b)
{
	struct iommu_vfio_ioas set = { .size = sizeof(set), .op = IOMMU_VFIO_IOAS_SET };

	with_device(c, b);
	set.ioas_id = c->ioas;
	must(ioctl(c->fd, IOMMU_VFIO_IOAS, &set));
	must(ioctl(c->fd, VFIO_SET_IOMMU, b->step == 1 ? VFIO_TYPE1_IOMMU : VFIO_TYPE1v2_IOMMU));
}

static void with_mapping(struct ctx *c, const struct bench *b)
{
	with_device(c, b);
	map_at(c, c->ioas, c->memory, c->length, IOVA);
}

static void with_nested(struct ctx *c, const struct bench *b)
{
	with_device(c, b);
	c->parent = paging(c, IOMMU_HWPT_ALLOC_NEST_PARENT);
	c->nested = nested_on(c, c->parent, 0);
	c->nested2 = nested_on(c, c->parent, 0);
	c->nreqs = b->per;
	c->reqs = calloc(b->per, sizeof(*c->reqs));
	must(!c->reqs);
}

static void with_pasid(struct ctx *c, const struct bench *b)
{
	with_device(c, b);
	c->parent = paging(c, IOMMU_HWPT_ALLOC_NEST_PARENT | IOMMU_HWPT_ALLOC_PASID);
	c->nested = nested_on(c, c->parent, IOMMU_HWPT_ALLOC_PASID);
	c->nested2 = nested_on(c, c->parent, IOMMU_HWPT_ALLOC_PASID);
	/* A PASID is attached only where the device itself has such a table. */
	must(_test_cmd_mock_domain_replace(c->fd, c->stdev, c->nested, NULL));
}

static void with_viommu(struct ctx *c, const struct bench *b)
{
	with_nested(c, b);
	must(_test_cmd_viommu_alloc(c->fd, c->idev, c->parent, 0, IOMMU_VIOMMU_TYPE_SELFTEST,
				    NULL, 0, &c->viommu));
}

static void with_vdevice(struct ctx *c, const struct bench *b)
{
	struct iommu_hwpt_selftest data = { .iotlb = IOMMU_TEST_IOTLB_DEFAULT };
	__u32 nested;

	with_viommu(c, b);
	must(_test_cmd_hwpt_alloc(c->fd, c->idev, c->viommu, 0, 0, &nested,
				  IOMMU_HWPT_DATA_SELFTEST, &data, sizeof(data)));
	must(_test_cmd_vdevice_alloc(c->fd, c->viommu, c->idev, 0x99, &c->vdevice));
	must(_test_cmd_mock_domain_replace(c->fd, c->stdev, nested, NULL));
}

static void with_veventq(struct ctx *c, const struct bench *b)
{
	with_vdevice(c, b);
	must(_test_cmd_veventq_alloc(c->fd, c->viommu, IOMMU_VEVENTQ_TYPE_SELFTEST, 64,
				     &c->queue, &c->queue_fd));
}

static void with_fault_queue(struct ctx *c, const struct bench *b)
{
	struct iommu_hwpt_selftest data = { .iotlb = IOMMU_TEST_IOTLB_DEFAULT };
	__u32 hwpt;

	with_nested(c, b);
	must(_test_ioctl_fault_alloc(c->fd, &c->queue, &c->queue_fd));
	must(_test_cmd_hwpt_alloc(c->fd, c->idev, c->parent, c->queue,
				  IOMMU_HWPT_FAULT_ID_VALID, &hwpt, IOMMU_HWPT_DATA_SELFTEST,
				  &data, sizeof(data)));
	must(_test_cmd_mock_domain_replace(c->fd, c->stdev, hwpt, NULL));
}

static void with_dirty(struct ctx *c, const struct bench *b)
{
	struct iommu_option small = { .size = sizeof(small), .op = IOMMU_OPTION_OP_SET,
				      .option_id = IOMMU_OPTION_HUGE_PAGES };

	with_ioas(c, b);
	/* Each page has a dirty bit of its own only where each has an entry. */
	small.object_id = c->ioas;
	must(ioctl(c->fd, IOMMU_OPTION, &small));
	must(_test_cmd_mock_domain_flags(c->fd, c->ioas, 0, &c->stdev, &c->hwpt, &c->idev));
	c->hwpt = paging(c, IOMMU_HWPT_ALLOC_DIRTY_TRACKING);
	must(_test_cmd_mock_domain_replace(c->fd, c->stdev, c->hwpt, NULL));
	map_at(c, c->ioas, c->memory, c->length, IOVA);
	must(_test_cmd_set_dirty_tracking(c->fd, c->hwpt, true));
	c->bitmap = calloc(1, c->length / PG / 8);
	must(!c->bitmap);
	/* step says which pages: each one, or one in so many bytes. */
	for (__u64 at = 0; at < c->length; at += c->step)
		set_bit(at / PG, (unsigned long *)c->bitmap);
	must(_test_cmd_mock_domain_set_dirty(c->fd, c->hwpt, c->length, IOVA, PG, c->bitmap,
					     NULL));
}

static void with_copy_source(struct ctx *c, const struct bench *b)
{
	with_device(c, b);
	must(_test_ioctl_ioas_alloc(c->fd, &c->ioas2));
	map_at(c, c->ioas2, c->memory, c->length, IOVA);
}

static void with_memfd(struct ctx *c, const struct bench *b)
{
	/* The file's memory is scattered, the process has none. */
	must(_test_ioctl_ioas_alloc(c->fd, &c->ioas));
	must(_test_cmd_mock_domain(c->fd, c->ioas, &c->stdev, &c->hwpt, &c->idev));
	c->length = b->length;
	c->memfd = memfd_create("bench", 0);
	must(c->memfd < 0 || ftruncate(c->memfd, b->length));
	c->memory = mmap(NULL, b->length, PROT_READ | PROT_WRITE, MAP_SHARED, c->memfd, 0);
	must(c->memory == MAP_FAILED);
	for (__u64 i = 0; i < b->length / PG; i++)
		c->memory[nth_page(i, b->length) * PG] = 1;
	check_layout(c->memory, b->length, b->layout);
}

/* What is measured */

static void run_getppid(void *ctx)
{
	must(syscall(SYS_getppid) < 0);
}

static void run_option(void *ctx)
{
	struct ctx *c = ctx;
	struct iommu_option cmd = { .size = sizeof(cmd), .option_id = IOMMU_OPTION_HUGE_PAGES,
				    .op = IOMMU_OPTION_OP_GET, .object_id = c->ioas };

	must(ioctl(c->fd, IOMMU_OPTION, &cmd));
}

static void run_ranges(void *ctx)
{
	struct ctx *c = ctx;
	struct iommu_iova_range ranges[4];
	struct iommu_ioas_iova_ranges cmd = { .size = sizeof(cmd), .ioas_id = c->ioas,
		.num_iovas = 4, .allowed_iovas = (uintptr_t)ranges };

	must(ioctl(c->fd, IOMMU_IOAS_IOVA_RANGES, &cmd));
}

static void run_hw_info(void *ctx)
{
	struct ctx *c = ctx;
	struct iommu_test_hw_info info;

	must(_test_cmd_get_hw_info(c->fd, c->idev, IOMMU_HW_INFO_TYPE_DEFAULT, &info,
				   sizeof(info), NULL, NULL));
}

static void run_ioas(void *ctx)
{
	struct ctx *c = ctx;
	__u32 id;

	must(_test_ioctl_ioas_alloc(c->fd, &id));
	destroy(c, id);
}

static void run_paging(void *ctx)
{
	destroy(ctx, paging(ctx, 0));
}

static void run_nested(void *ctx)
{
	struct ctx *c = ctx;

	destroy(c, nested_on(c, c->parent, 0));
}

static void run_fault_queue(void *ctx)
{
	struct ctx *c = ctx;
	__u32 id, fd;

	must(_test_ioctl_fault_alloc(c->fd, &id, &fd));
	close(fd);
	destroy(c, id);
}

static void run_fault(void *ctx)
{
	struct ctx *c = ctx;

	must(_test_cmd_trigger_iopf(c->fd, c->idev, 0, c->queue_fd));
}

static void run_viommu(void *ctx)
{
	struct ctx *c = ctx;
	__u32 id;

	must(_test_cmd_viommu_alloc(c->fd, c->idev, c->parent, 0, IOMMU_VIOMMU_TYPE_SELFTEST,
				    NULL, 0, &id));
	destroy(c, id);
}

static void run_vdevice(void *ctx)
{
	struct ctx *c = ctx;
	__u32 id;

	must(_test_cmd_vdevice_alloc(c->fd, c->viommu, c->idev, 0x99, &id));
	destroy(c, id);
}

static void run_veventq(void *ctx)
{
	struct ctx *c = ctx;
	__u32 id, fd;

	must(_test_cmd_veventq_alloc(c->fd, c->viommu, IOMMU_VEVENTQ_TYPE_SELFTEST, 64, &id, &fd));
	close(fd);
	destroy(c, id);
}

static void run_vevent(void *ctx)
{
	struct ctx *c = ctx;
	char event[sizeof(struct iommufd_vevent_header) +
		   sizeof(struct iommu_viommu_event_selftest)];

	must(_test_cmd_trigger_vevents(c->fd, c->idev, 1));
	must(read(c->queue_fd, event, sizeof(event)) != sizeof(event));
}

static void run_invalidate(void *ctx)
{
	struct ctx *c = ctx;
	__u32 n = c->nreqs;

	must(_test_cmd_hwpt_invalidate(c->fd, c->nested, c->reqs,
				       IOMMU_HWPT_INVALIDATE_DATA_SELFTEST, sizeof(*c->reqs), &n));
}

/* An even number of replacements each, so that the last one leaves the first. */
static void run_replace_nested(void *ctx)
{
	struct ctx *c = ctx;

	must(_test_cmd_mock_domain_replace(c->fd, c->stdev, c->nested, NULL));
	must(_test_cmd_mock_domain_replace(c->fd, c->stdev, c->nested2, NULL));
}

static void run_replace_paging(void *ctx)
{
	struct ctx *c = ctx;

	must(_test_cmd_mock_domain_replace(c->fd, c->stdev, c->nested, NULL));
	must(_test_cmd_mock_domain_replace(c->fd, c->stdev, c->parent, NULL));
}

static void run_pasid(void *ctx)
{
	struct ctx *c = ctx;

	must(_test_cmd_pasid_attach(c->fd, c->stdev, 100, c->nested));
	must(_test_cmd_pasid_replace(c->fd, c->stdev, 100, c->nested2));
	must(_test_cmd_pasid_detach(c->fd, c->stdev, 100));
}

static void run_map(void *ctx)
{
	struct ctx *c = ctx;

	map_at(c, c->ioas, c->memory, c->length, IOVA);
	unmap_at(c, c->ioas, IOVA, c->length);
}

static void run_map_dma(void *ctx)
{
	struct ctx *c = ctx;
	struct vfio_iommu_type1_dma_map map = { .argsz = sizeof(map), .vaddr = (uintptr_t)c->memory,
		.iova = IOVA, .size = c->length,
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE };
	struct vfio_iommu_type1_dma_unmap unmap = { .argsz = sizeof(unmap), .iova = IOVA,
						    .size = c->length };

	must(ioctl(c->fd, VFIO_IOMMU_MAP_DMA, &map));
	must(ioctl(c->fd, VFIO_IOMMU_UNMAP_DMA, &unmap));
}

static void run_map_file(void *ctx)
{
	struct ctx *c = ctx;
	__u64 iova = IOVA;

	must(_test_ioctl_ioas_map_file(c->fd, c->ioas, c->memfd, 0, c->length, &iova,
				       IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_WRITEABLE |
				       IOMMU_IOAS_MAP_READABLE));
	unmap_at(c, c->ioas, IOVA, c->length);
}

static void run_copy(void *ctx)
{
	struct ctx *c = ctx;
	struct iommu_ioas_copy cmd = { .size = sizeof(cmd), .dst_ioas_id = c->ioas,
		.src_ioas_id = c->ioas2, .length = c->length, .src_iova = IOVA, .dst_iova = IOVA,
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_WRITEABLE |
			 IOMMU_IOAS_MAP_READABLE };

	must(ioctl(c->fd, IOMMU_IOAS_COPY, &cmd));
	unmap_at(c, c->ioas, IOVA, c->length);
}

static void run_dirty(void *ctx)
{
	struct ctx *c = ctx;

	must(_test_cmd_get_dirty_bitmap(c->fd, c->hwpt, c->length, IOVA, PG, c->bitmap,
					IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR));
}

/* Areas of one page with a hole between, and all of them gone at once. */
static void run_many_maps(void *ctx)
{
	struct ctx *c = ctx;
	struct iommu_ioas_unmap all = { .size = sizeof(all), .ioas_id = c->ioas,
					.length = UINT64_MAX };

	for (__u64 i = 0; i < c->step; i++)
		map_at(c, c->ioas, c->memory, PG, IOVA + i * 2 * PG);
	must(ioctl(c->fd, IOMMU_IOAS_UNMAP, &all));
}

static void run_many_objects(void *ctx)
{
	struct ctx *c = ctx;
	__u32 *ids = calloc(c->step, sizeof(*ids));

	must(!ids);
	for (__u64 i = 0; i < c->step; i++)
		must(_test_ioctl_ioas_alloc(c->fd, &ids[i]));
	for (__u64 i = 0; i < c->step; i++)
		destroy(c, ids[i]);
	free(ids);
}

/*
 * The first one has nothing to do with /dev/iommu: what a system call costs, and
 * how processors share them, for all others to be seen beside. Those that free
 * much after a grace period run so often that what is still waiting at the end
 * does not count.
 */
static const struct bench benches[] = {
	{ "getppid", "op", with_ioas, run_getppid, 20000, 1 },
	{ "option_get", "op", with_ioas, run_option, 20000, 1 },
	{ "iova_ranges", "op", with_device, run_ranges, 20000, 1 },
	{ "hw_info", "op", with_device, run_hw_info, 20000, 1 },
	{ "ioas_alloc_destroy", "op", with_ioas, run_ioas, 10000, 1 },
	{ "hwpt_paging_alloc_destroy", "op", with_device, run_paging, 5000, 1 },
	{ "hwpt_nested_alloc_destroy", "op", with_nested, run_nested, 10000, 1 },
	{ "hwpt_invalidate_1", "entry", with_nested, run_invalidate, 20000, 1 },
	{ "hwpt_invalidate_256", "entry", with_nested, run_invalidate, 2000, 256 },
	{ "replace_nested_nested", "op", with_nested, run_replace_nested, 5000, 2 },
	{ "replace_nested_paging", "op", with_nested, run_replace_paging, 5000, 2 },
	{ "pasid_attach_replace_detach", "op", with_pasid, run_pasid, 5000, 1 },
	{ "fault_queue_alloc_destroy", "op", with_ioas, run_fault_queue, 5000, 1 },
	{ "fault_read_respond", "op", with_fault_queue, run_fault, 40000, 1 },
	{ "viommu_alloc_destroy", "op", with_nested, run_viommu, 5000, 1 },
	{ "vdevice_alloc_destroy", "op", with_viommu, run_vdevice, 40000, 1 },
	{ "veventq_alloc_destroy", "op", with_viommu, run_veventq, 5000, 1 },
	{ "vevent_report_read", "op", with_veventq, run_vevent, 10000, 1 },
	{ "map_unmap_4k_no_domain", "op", with_ioas, run_map, 10000, 1, PG },
	{ "map_unmap_4k", "op", with_device, run_map, 10000, 1, PG },
	{ "map_unmap_2m_scattered", "page", with_device, run_map, 50, 512, 2 * MIB },
	{ "map_unmap_64m_scattered", "page", with_device, run_map, 5, 16384, 64 * MIB },
	{ "map_unmap_2m_thp", "op", with_device, run_map, 50, 1, 2 * MIB, THP },
	{ "map_unmap_64m_thp", "page", with_device, run_map, 5, 16384, 64 * MIB, THP },
	{ "map_unmap_64m_hugetlb", "page", with_device, run_map, 5, 16384, 64 * MIB, HUGETLB },
	{ "map_unmap_1g_hugetlb", "page", with_device, run_map, 3, 262144, GIB, HUGETLB },
	{ "map_file_unmap_64m_scattered", "page", with_memfd, run_map_file, 5, 16384, 64 * MIB },
	{ "type1_64m_hugetlb", "page", with_type1, run_map_dma, 5, 16384, 64 * MIB, HUGETLB, 1 },
	{ "type1v2_64m_hugetlb", "page", with_type1, run_map_dma, 5, 16384, 64 * MIB, HUGETLB, 2 },
	{ "hwpt_over_64m_scattered", "page", with_mapping, run_paging, 5, 16384, 64 * MIB },
	{ "hwpt_over_64m_thp", "page", with_mapping, run_paging, 5, 16384, 64 * MIB, THP },
	{ "ioas_copy_64m_scattered", "page", with_copy_source, run_copy, 5, 16384, 64 * MIB },
	{ "dirty_read_1g_sparse", "page", with_dirty, run_dirty, 3, 262144, GIB, HUGETLB, 2 * MIB },
	{ "dirty_read_1g_full", "page", with_dirty, run_dirty, 3, 262144, GIB, HUGETLB, PG },
	{ "map_1000_unmap_all", "area", with_ioas, run_many_maps, 3, 1000, PG, .step = 1000 },
	{ "map_10000_unmap_all", "area", with_ioas, run_many_maps, 3, 10000, PG, .step = 10000 },
	{ "objects_10000", "object", with_ioas, run_many_objects, 3, 10000, .step = 10000 },
};

static void open_ctx(struct ctx *c)
{
	memset(c, 0, sizeof(*c));
	c->memfd = -1;
	c->fd = open("/dev/iommu", O_RDWR);
	must(c->fd < 0);
}

/* Closing the context takes all objects with it, but not this process's. */
static void close_ctx(struct ctx *c)
{
	if (c->queue_fd)
		close(c->queue_fd);
	if (c->memory)
		munmap(c->memory, c->length);
	if (c->memfd >= 0)
		close(c->memfd);
	free(c->bitmap);
	free(c->reqs);
	if (c->stdev)
		_test_ioctl_destroy(c->fd, c->stdev);
	close(c->fd);
}

static void measure(const struct bench *b)
{
	struct ctx c;

	open_ctx(&c);
	b->setup(&c, b);
	printf("BENCH,%s,%s,%.2f\n", b->name, b->unit, bench_run(b->run, &c, b->count) / b->per);
	close_ctx(&c);
}

/* Kernel allocations, from the kmem trace events of this process. */

static const struct traced allocations = {
	{ "kmem/kmalloc", "kmem/kmem_cache_alloc" }, "bytes_alloc=",
};

static void memory_of(const struct bench *b)
{
	long count, bytes, own, own_bytes;
	struct ctx c;

	/* Thousands of areas overrun the buffer; their cost is in the others. */
	if (b->count * b->per >= 3000 && b->length)
		return;
	open_ctx(&c);
	b->setup(&c, b);
	b->run(&c);
	trace_begin();
	trace_run(&allocations, NULL, NULL, &own, &own_bytes);
	trace_run(&allocations, b->run, &c, &count, &bytes);
	printf("BENCH,%s,allocations,%ld\nBENCH,%s,bytes,%ld\n", b->name, count - own, b->name,
	       bytes - own_bytes);
	close_ctx(&c);
}

/*
 * Threads: one context, and objects and descriptors of its own for each. Where
 * descriptors are shared each ioctl counts the open file, and one count that all
 * threads change would be what is measured.
 */

static int stop;

struct worker {
	_Alignas(128) pthread_t thread;
	const struct bench *b;
	struct ctx c;
	__u64 done;
};

static void *work(void *arg)
{
	struct worker *w = arg;

	must(unshare(CLONE_FILES));
	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		w->b->run(&w->c);
		w->done++;
	}
	return NULL;
}

static void threads(const struct bench *b, unsigned int n, unsigned int seconds)
{
	struct worker *w = aligned_alloc(__alignof__(*w), n * sizeof(*w));
	struct ctx shared;
	__u64 start, done = 0;

	must(!w);
	memset(w, 0, n * sizeof(*w));
	open_ctx(&shared);
	for (unsigned int i = 0; i < n; i++) {
		w[i].b = b;
		w[i].c = shared;
		b->setup(&w[i].c, b);
		b->run(&w[i].c);
	}
	start = now();
	for (unsigned int i = 0; i < n; i++)
		must(pthread_create(&w[i].thread, NULL, work, &w[i]));
	sleep(seconds);
	__atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
	for (unsigned int i = 0; i < n; i++) {
		pthread_join(w[i].thread, NULL);
		done += w[i].done;
	}
	printf("BENCH,%s,ops_per_second_%u,%.0f\n", b->name, n,
	       (double)done * b->per * 1e9 / (now() - start));
}

int main(int argc, char **argv)
{
	unsigned int nthreads = 0, seconds = 2;
	bool memory = false, list = false;
	int option;

	PAGE_SIZE = sysconf(_SC_PAGE_SIZE);
	while ((option = getopt(argc, argv, "lmt:s:")) != -1) {
		switch (option) {
		case 'l':
			list = true;
			break;
		case 'm':
			memory = true;
			break;
		case 't':
			nthreads = atoi(optarg);
			break;
		case 's':
			seconds = atoi(optarg);
			break;
		default:
			return 2;
		}
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(benches); i++) {
		bool wanted = optind == argc;

		for (int j = optind; j < argc; j++)
			wanted |= !strcmp(argv[j], benches[i].name);
		if (!wanted)
			continue;
		if (list)
			puts(benches[i].name);
		else if (nthreads)
			threads(&benches[i], nthreads, seconds);
		else if (memory)
			memory_of(&benches[i]);
		else
			measure(&benches[i]);
		fflush(stdout);
	}
	return 0;
}
