// SPDX-License-Identifier: GPL-2.0-only
/*
 * Eight threads on one context: all that /dev/iommu can do, in random order,
 * to objects that the others use and destroy meanwhile. A round ends with
 * everything destroyed, or with the file closed under the threads, or with the
 * process killed. In another process a witness does by itself what a VMM does,
 * and there every step must succeed.
 *
 * After each round nothing may be left. An operation may fail only with what
 * its row in the table says, and must have succeeded often enough, so that a
 * kernel that refuses everything does not pass.
 *
 * STRESS_SECONDS (60), STRESS_SEED (any; it is printed). Needs
 * CONFIG_IOMMUFD_TEST and no hardware.
 */
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <linux/vfio.h>

/* Made for the harness's fixtures. */
#pragma GCC diagnostic ignored "-Wunused-variable"
#include "iommufd_utils.h"
#include "iommufd_gone.h"

#define THREADS 8
#define PAGES 64UL
#define IOVA ((__u64)MOCK_APERTURE_START)
/* Out of the way of numbers that come and go, so that it is never another file. */
#define CTX 900
#define SLOTS 8

enum kind {
	IOAS, STDEV, IDEV, HWPT, PARENT, NESTED, VIOMMU, VDEVICE, VEVENTQ, FAULT, HW_QUEUE, KINDS
};

enum { FAULT_FD, EVENT_FD, ACCESS_FD, DMABUF_FD, FD_KINDS };

/* Ids and descriptors that all threads know. Some are stale: that is the point. */
static _Atomic __u32 ids[KINDS][SLOTS];
static _Atomic int fds[FD_KINDS][SLOTS];
static _Atomic __u32 largest_id;
static _Atomic bool stop, closing;

/* A round: what is random in it but not in its threads. */
static bool files_only, mm_mode;
static void *memory;
static int memory_fd;

static const char *const end_names[] = { "destroyed", "closed", "killed" };

#define ERRORS 160
#define OPS_MAX 64

/* Survives the processes of the rounds. */
static struct shared {
	_Atomic unsigned long count[OPS_MAX][ERRORS];
	_Atomic unsigned long cycles;
	_Atomic bool pause, paused, end, started, has_fault;
	char fault[256];
} *shared;

static __printf(1, 2) void fault(const char *format, ...)
{
	va_list args;

	if (atomic_exchange(&shared->has_fault, true))
		return;
	va_start(args, format);
	vsnprintf(shared->fault, sizeof(shared->fault), format, args);
	va_end(args);
}

struct worker {
	struct dice dice;
	pthread_t thread;
};

#define roll(w, n) below(&(w)->dice, n)

/* What a helper returned, as 0 or an error. */
static int rc(int ret)
{
	return ret < 0 ? -errno : 0;
}

static __u32 pick(struct worker *w, enum kind kind)
{
	__u32 id = 0;

	/* Slots are empty at first. */
	for (int i = 0; i < SLOTS && !id; i++)
		id = atomic_load(&ids[kind][roll(w, SLOTS)]);
	return id ?: 1 + roll(w, 16);
}

static int pick_fd(struct worker *w, int kind)
{
	int fd = 0;

	for (int i = 0; i < SLOTS && !fd; i++)
		fd = atomic_load(&fds[kind][roll(w, SLOTS)]);
	return fd ?: CTX + 1;
}

static __u64 some_iova(struct worker *w)
{
	return IOVA + roll(w, PAGES) * PG;
}

/* What an id was in before makes room: destroyed, or else left to the end of the round. */
static void put_at(enum kind kind, int slot, __u32 id)
{
	__u32 most = atomic_load(&largest_id);
	__u32 old;

	while (id > most && !atomic_compare_exchange_weak(&largest_id, &most, id))
		;
	old = atomic_exchange(&ids[kind][slot], id);
	if (old)
		_test_ioctl_destroy(CTX, old);
}

static void put(struct worker *w, enum kind of, __u32 id)
{
	put_at(of, roll(w, SLOTS), id);
}

static void put_fd(struct worker *w, int kind, int fd)
{
	int old = atomic_exchange(&fds[kind][roll(w, SLOTS)], fd);

	if (old)
		close(old);
}

/* Operations: 0, or an error as a negative number. */

static int allow(__u32 ioas, int count)
{
	struct iommu_iova_range range = { .start = IOVA, .last = MOCK_APERTURE_LAST };
	struct iommu_ioas_allow_iovas cmd = {
		.size = sizeof(cmd), .ioas_id = ioas, .num_iovas = count,
		.allowed_iovas = (uintptr_t)&range,
	};

	return rc(ioctl(CTX, IOMMU_IOAS_ALLOW_IOVAS, &cmd));
}

static int ioas_alloc(struct worker *w)
{
	__u32 id = 0;
	int ret = rc(_test_ioctl_ioas_alloc(CTX, &id));

	if (ret)
		return ret;
	/* Elsewhere is where no mock device can go. */
	if (roll(w, 8))
		allow(id, 1);
	put(w, IOAS, id);
	return 0;
}

static int some_flags(struct worker *w)
{
	static const int flags[] = {
		IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE,
		IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE,
		IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE,
	};

	return flags[roll(w, 3)];
}

static int map_user(struct worker *w)
{
	unsigned long page = roll(w, PAGES - 8);
	__u64 iova = some_iova(w);

	/* User memory bars IOMMU_IOAS_CHANGE_PROCESS. */
	if (files_only)
		return rc(_test_ioctl_ioas_map_file(CTX, pick(w, IOAS), memory_fd, page * PG, PG,
						    &iova, some_flags(w)));
	return rc(_test_ioctl_ioas_map(CTX, pick(w, IOAS), memory + page * PG,
				       (1 + roll(w, 8)) * PG, &iova, some_flags(w)));
}

static int map_file(struct worker *w)
{
	__u64 iova = some_iova(w);

	return rc(_test_ioctl_ioas_map_file(CTX, pick(w, IOAS), memory_fd, roll(w, PAGES - 8) * PG,
					    (1 + roll(w, 8)) * PG, &iova, some_flags(w)));
}

static int map_dmabuf(struct worker *w)
{
	__u64 iova = some_iova(w);

	if (files_only)
		return map_file(w);
	return rc(_test_ioctl_ioas_map_file(CTX, pick(w, IOAS), pick_fd(w, DMABUF_FD), 0, 2 * PG,
					    &iova, some_flags(w)));
}

static int unmap(struct worker *w)
{
	bool all = !roll(w, 8);
	__u64 iova = all ? 0 : some_iova(w);

	return rc(_test_ioctl_ioas_unmap(CTX, pick(w, IOAS), iova,
					 all ? UINT64_MAX : (1 + roll(w, 32)) * PG, NULL));
}

static int copy(struct worker *w)
{
	struct iommu_ioas_copy cmd = {
		.size = sizeof(cmd), .flags = some_flags(w), .dst_ioas_id = pick(w, IOAS),
		.src_ioas_id = pick(w, IOAS), .length = PG, .dst_iova = some_iova(w),
		.src_iova = some_iova(w),
	};

	return rc(ioctl(CTX, IOMMU_IOAS_COPY, &cmd));
}

static int iova_ranges(struct worker *w)
{
	struct iommu_iova_range ranges[8];
	struct iommu_ioas_iova_ranges cmd = {
		.size = sizeof(cmd), .ioas_id = pick(w, IOAS), .num_iovas = roll(w, 9),
		.allowed_iovas = (uintptr_t)ranges,
	};

	return rc(ioctl(CTX, IOMMU_IOAS_IOVA_RANGES, &cmd));
}

static int allow_iovas(struct worker *w)
{
	return allow(pick(w, IOAS), roll(w, 8) != 0);
}

static int add_reserved(struct worker *w)
{
	/* Nothing else is mapped so high. */
	struct iommu_test_cmd cmd = { .add_reserved = {
		.start = 0x40000000 + roll(w, 1024) * PG, .length = PG } };

	return test_op(CTX, &cmd, IOMMU_TEST_OP_ADD_RESERVED, pick(w, IOAS));
}

static int option(struct worker *w)
{
	bool huge = roll(w, 4);
	struct iommu_option cmd = {
		.size = sizeof(cmd), .op = roll(w, 2),
		.option_id = huge ? IOMMU_OPTION_HUGE_PAGES : IOMMU_OPTION_RLIMIT_MODE,
		.object_id = huge ? pick(w, IOAS) : 0, .val64 = huge ? roll(w, 2) : mm_mode,
	};

	return rc(ioctl(CTX, IOMMU_OPTION, &cmd));
}

static int vfio_ioas(struct worker *w)
{
	struct iommu_vfio_ioas cmd = {
		.size = sizeof(cmd), .ioas_id = pick(w, IOAS), .op = roll(w, 8) ? roll(w, 2) : 2 };

	return rc(ioctl(CTX, IOMMU_VFIO_IOAS, &cmd));
}

static int vfio_map(struct worker *w)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map), .flags = VFIO_DMA_MAP_FLAG_READ, .size = PG,
		.vaddr = (uintptr_t)memory + roll(w, PAGES) * PG, .iova = some_iova(w),
	};
	struct vfio_iommu_type1_dma_unmap gone = {
		.argsz = sizeof(gone), .iova = some_iova(w), .size = 8 * PG };

	if (roll(w, 2) || files_only)
		return rc(ioctl(CTX, VFIO_IOMMU_UNMAP_DMA, &gone));
	return rc(ioctl(CTX, VFIO_IOMMU_MAP_DMA, &map));
}

static int new_device(struct worker *w)
{
	static const __u32 flags[] = { 0, MOCK_FLAGS_DEVICE_NO_DIRTY, MOCK_FLAGS_DEVICE_PASID,
				       MOCK_FLAGS_DEVICE_PASID };
	__u32 stdev = 0, hwpt, idev = 0;
	int slot = roll(w, SLOTS);
	int ret = rc(_test_cmd_mock_domain_flags(CTX, pick(w, roll(w, 8) ? IOAS : PARENT),
						 flags[roll(w, 4)], &stdev, &hwpt, &idev));

	if (ret)
		return ret;
	/* A device that goes takes its second id along. */
	put_at(STDEV, slot, stdev);
	put_at(IDEV, slot, idev);
	return 0;
}

static __u32 some_target(struct worker *w)
{
	static const enum kind kinds[] = { IOAS, HWPT, PARENT, NESTED, NESTED };

	return pick(w, kinds[roll(w, 5)]);
}

static int replace(struct worker *w)
{
	return rc(_test_cmd_mock_domain_replace(CTX, pick(w, STDEV), some_target(w), NULL));
}

static __u32 some_pasid(struct worker *w)
{
	return roll(w, 4);
}

static int pasid_attach(struct worker *w)
{
	int slot = roll(w, SLOTS);
	__u32 stdev = atomic_load(&ids[STDEV][slot]), idev = atomic_load(&ids[IDEV][slot]);
	__u32 hwpt;

	if (roll(w, 2))
		return rc(_test_cmd_pasid_attach(CTX, pick(w, STDEV), some_pasid(w),
						 some_target(w)));
	/* PASIDs go only with a hwpt that is made for them, also without PASID. */
	if (_test_cmd_hwpt_alloc(CTX, idev, pick(w, IOAS), 0, IOMMU_HWPT_ALLOC_PASID, &hwpt,
				 IOMMU_HWPT_DATA_NONE, NULL, 0))
		return -errno;
	put(w, HWPT, hwpt);
	if (_test_cmd_mock_domain_replace(CTX, stdev, hwpt, NULL))
		return -errno;
	return rc(_test_cmd_pasid_attach(CTX, stdev, 1 + roll(w, 3), hwpt));
}

static int pasid_replace(struct worker *w)
{
	return rc(_test_cmd_pasid_replace(CTX, pick(w, STDEV), some_pasid(w), some_target(w)));
}

static int pasid_detach(struct worker *w)
{
	return rc(_test_cmd_pasid_detach(CTX, pick(w, STDEV), some_pasid(w)));
}

static int pasid_check(struct worker *w)
{
	struct iommu_test_cmd cmd = { .pasid_check = {
		.pasid = some_pasid(w), .hwpt_id = roll(w, 2) ? some_target(w) : 0 } };

	return test_op(CTX, &cmd, IOMMU_TEST_OP_PASID_CHECK_HWPT, pick(w, STDEV));
}

static int new_hwpt(struct worker *w)
{
	static const __u32 flags[] = {
		0, IOMMU_HWPT_ALLOC_DIRTY_TRACKING, IOMMU_HWPT_ALLOC_PASID,
		IOMMU_HWPT_ALLOC_PASID | IOMMU_HWPT_FAULT_ID_VALID, IOMMU_HWPT_FAULT_ID_VALID };
	__u32 id = 0;
	int ret = rc(_test_cmd_hwpt_alloc(CTX, pick(w, IDEV), pick(w, IOAS), pick(w, FAULT),
					  flags[roll(w, 5)], &id, IOMMU_HWPT_DATA_NONE, NULL, 0));

	if (!ret)
		put(w, HWPT, id);
	return ret;
}

static int new_parent(struct worker *w)
{
	__u32 flags = IOMMU_HWPT_ALLOC_NEST_PARENT | (roll(w, 2) ? IOMMU_HWPT_ALLOC_PASID : 0);
	__u32 id = 0;
	int ret = rc(_test_cmd_hwpt_alloc(CTX, pick(w, IDEV), pick(w, IOAS), 0, flags, &id,
					  IOMMU_HWPT_DATA_NONE, NULL, 0));

	if (!ret)
		put(w, PARENT, id);
	return ret;
}

static int new_nested(struct worker *w)
{
	static const __u32 flags[] = { 0, IOMMU_HWPT_ALLOC_PASID, IOMMU_HWPT_FAULT_ID_VALID,
				       IOMMU_HWPT_ALLOC_PASID | IOMMU_HWPT_FAULT_ID_VALID };
	struct iommu_hwpt_selftest data = { .iotlb = IOMMU_TEST_IOTLB_DEFAULT };
	__u32 id = 0;
	int ret = rc(_test_cmd_hwpt_alloc(CTX, pick(w, IDEV), pick(w, roll(w, 2) ? PARENT : VIOMMU),
					  pick(w, FAULT), flags[roll(w, 4)], &id,
					  IOMMU_HWPT_DATA_SELFTEST, &data, sizeof(data)));

	if (!ret)
		put(w, NESTED, id);
	return ret;
}

static int invalidate_nested(struct worker *w)
{
	struct iommu_hwpt_invalidate_selftest requests[4] = {};
	__u32 count = roll(w, 5);

	for (int i = 0; i < 4; i++) {
		requests[i].flags = roll(w, 2);
		requests[i].iotlb_id = roll(w, 4);
	}
	return rc(_test_cmd_hwpt_invalidate(CTX, pick(w, NESTED), requests,
					    IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
					    sizeof(requests[0]), &count));
}

static int invalidate_viommu(struct worker *w)
{
	struct iommu_viommu_invalidate_selftest requests[2] = {};
	__u32 count = roll(w, 3);

	for (int i = 0; i < 2; i++) {
		requests[i].flags = roll(w, 2);
		requests[i].vdev_id = 1 + roll(w, 4);
		requests[i].cache_id = roll(w, 4);
	}
	return rc(_test_cmd_viommu_invalidate(CTX, pick(w, VIOMMU), requests,
					      IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST,
					      sizeof(requests[0]), &count));
}

static int new_viommu(struct worker *w)
{
	struct iommu_viommu_selftest data = { .in_data = 1 + roll(w, 1000) };
	__u32 *page;
	__u32 id = 0;
	int ret = rc(_test_cmd_viommu_alloc(CTX, pick(w, IDEV), pick(w, PARENT), 0,
					    IOMMU_VIOMMU_TYPE_SELFTEST, &data, sizeof(data), &id));

	if (ret)
		return ret;
	if (data.out_data != data.in_data)
		fault("viommu_alloc: %u came back as %u", data.in_data, data.out_data);
	/* Destroyed already by another who guessed its id, or the file is closed: no mapping. */
	page = mmap(NULL, data.out_mmap_length, PROT_READ | PROT_WRITE, MAP_SHARED, CTX,
		    data.out_mmap_offset);
	if (page != MAP_FAILED) {
		*page += 1;
		munmap(page, data.out_mmap_length);
	}
	put(w, VIOMMU, id);
	return 0;
}

static int new_vdevice(struct worker *w)
{
	__u32 id = 0;
	int ret = rc(_test_cmd_vdevice_alloc(CTX, pick(w, VIOMMU), pick(w, IDEV), 1 + roll(w, 4),
					     &id));

	if (!ret)
		put(w, VDEVICE, id);
	return ret;
}

static int new_veventq(struct worker *w)
{
	__u32 id = 0, fd = 0;
	int ret = rc(_test_cmd_veventq_alloc(CTX, pick(w, VIOMMU), IOMMU_VEVENTQ_TYPE_SELFTEST,
					     1 + roll(w, 4), &id, &fd));

	if (ret)
		return ret;
	put(w, VEVENTQ, id);
	put_fd(w, EVENT_FD, fd);
	return 0;
}

static int new_hw_queue(struct worker *w)
{
	__u32 id = 0;
	int ret = rc(_test_cmd_hw_queue_alloc(CTX, pick(w, VIOMMU), IOMMU_HW_QUEUE_TYPE_SELFTEST,
					      roll(w, 2), some_iova(w), PG, &id));

	if (!ret)
		put(w, HW_QUEUE, id);
	return ret;
}

static int new_fault_queue(struct worker *w)
{
	__u32 id = 0, fd = 0;
	int ret = rc(_test_ioctl_fault_alloc(CTX, &id, &fd));

	if (ret)
		return ret;
	put(w, FAULT, id);
	put_fd(w, FAULT_FD, fd);
	return 0;
}

static int page_fault(struct worker *w)
{
	struct iommu_test_cmd cmd = { .trigger_iopf = {
		.dev_id = pick(w, IDEV), .grpid = roll(w, 4), .addr = 0xdead0000,
		.pasid = roll(w, 2) ? 0 : some_pasid(w),
		.perm = IOMMU_PGFAULT_PERM_READ } };

	return test_op(CTX, &cmd, IOMMU_TEST_OP_TRIGGER_IOPF, 0);
}

static int answer_faults(struct worker *w)
{
	struct iommu_hwpt_pgfault faults[4];
	struct iommu_hwpt_page_response responses[4];
	int fd = pick_fd(w, FAULT_FD);
	int got = rc(0);
	ssize_t bytes = read(fd, faults, sizeof(faults));

	if (bytes < 0)
		return -errno;
	/* Success is an answer that was taken. */
	if (bytes < (ssize_t)sizeof(faults[0]))
		return -EAGAIN;
	got = bytes / sizeof(faults[0]);
	for (int i = 0; i < got; i++) {
		responses[i].cookie = faults[i].cookie;
		responses[i].code = roll(w, 2);
	}
	/* Those that are never answered the kernel answers. */
	if (!roll(w, 4))
		return 0;
	return rc(write(fd, responses, got * sizeof(responses[0])));
}

static int event(struct worker *w)
{
	return rc(_test_cmd_trigger_vevents(CTX, pick(w, IDEV), 1 + roll(w, 3)));
}

static int read_events(struct worker *w)
{
	char events[4 * (sizeof(struct iommufd_vevent_header) +
			 sizeof(struct iommu_viommu_event_selftest))];
	struct pollfd poll_fd = { .fd = pick_fd(w, EVENT_FD), .events = POLLIN };
	ssize_t bytes;

	poll(&poll_fd, 1, 0);
	bytes = read(poll_fd.fd, events, sizeof(events));
	if (bytes < 0)
		return -errno;
	return bytes ? 0 : -EAGAIN;
}

/* What a VMM does for a guest with a device, of which others destroy half meanwhile. */
static int guest(struct worker *w)
{
	struct iommu_hwpt_selftest data = { .iotlb = IOMMU_TEST_IOTLB_DEFAULT };
	int slot = roll(w, SLOTS);
	__u32 stdev = atomic_load(&ids[STDEV][slot]), idev = atomic_load(&ids[IDEV][slot]);
	__u32 parent, viommu, vdevice, queue, nested, fd;

	if (_test_cmd_hwpt_alloc(CTX, idev, pick(w, IOAS), 0, IOMMU_HWPT_ALLOC_NEST_PARENT,
				 &parent, IOMMU_HWPT_DATA_NONE, NULL, 0))
		return -errno;
	put(w, PARENT, parent);
	if (_test_cmd_viommu_alloc(CTX, idev, parent, 0, IOMMU_VIOMMU_TYPE_SELFTEST, NULL, 0,
				   &viommu))
		return -errno;
	put(w, VIOMMU, viommu);
	if (_test_cmd_vdevice_alloc(CTX, viommu, idev, 1 + roll(w, 4), &vdevice))
		return -errno;
	put(w, VDEVICE, vdevice);
	if (_test_cmd_veventq_alloc(CTX, viommu, IOMMU_VEVENTQ_TYPE_SELFTEST, 2, &queue, &fd))
		return -errno;
	put(w, VEVENTQ, queue);
	put_fd(w, EVENT_FD, fd);
	if (_test_cmd_hwpt_alloc(CTX, idev, viommu, pick(w, FAULT),
				 roll(w, 4) ? IOMMU_HWPT_FAULT_ID_VALID : 0, &nested,
				 IOMMU_HWPT_DATA_SELFTEST, &data, sizeof(data)))
		return -errno;
	put(w, NESTED, nested);
	if (_test_cmd_mock_domain_replace(CTX, stdev, nested, NULL))
		return -errno;
	event(w);
	page_fault(w);
	return 0;
}

static int track_dirty(struct worker *w)
{
	return rc(_test_cmd_set_dirty_tracking(CTX, pick(w, HWPT), roll(w, 2)));
}

static int dirty_bitmap(struct worker *w)
{
	__u64 bitmap[4] = {};
	__u64 iova = some_iova(w);
	__u32 hwpt = pick(w, HWPT);

	if (roll(w, 2)) {
		struct iommu_test_cmd cmd = { .dirty = {
			.iova = iova, .length = PG, .page_size = PG,
			.uptr = (uintptr_t)bitmap } };

		bitmap[0] = 1;
		return test_op(CTX, &cmd, IOMMU_TEST_OP_DIRTY, hwpt);
	}
	return rc(_test_cmd_get_dirty_bitmap(CTX, hwpt, PG, iova, PG, bitmap, roll(w, 2)));
}

static int new_access(struct worker *w)
{
	__u32 fd = 0;
	int ret = rc(_test_cmd_create_access(CTX, pick(w, IOAS), &fd,
					     MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES));

	if (!ret)
		put_fd(w, ACCESS_FD, fd);
	return ret;
}

static int access_pin(struct worker *w)
{
	int fd = pick_fd(w, ACCESS_FD);
	struct iommu_test_cmd pin = { .access_pages = { .iova = some_iova(w), .length = PG } };
	int ret = test_op(CTX, &pin, IOMMU_TEST_OP_ACCESS_PAGES, fd);

	if (!ret && roll(w, 4)) {
		int gone = rc(_test_cmd_destroy_access_pages(
			CTX, fd, pin.access_pages.out_access_pages_id));

		/* Unmapped meanwhile, or the number is another file's now. */
		if (gone && gone != -ENOENT && gone != -EBADFD && gone != -EBADF)
			return gone;
	}
	return ret;
}

static int access_rw(struct worker *w)
{
	char bytes[100] = {};
	struct iommu_test_cmd cmd = { .access_rw = {
		.iova = some_iova(w) + roll(w, PG), .length = 1 + roll(w, sizeof(bytes)),
		.uptr = (uintptr_t)bytes,
		.flags = roll(w, 2) | roll(w, 2) * MOCK_ACCESS_RW_SLOW_PATH } };

	return test_op(CTX, &cmd, IOMMU_TEST_OP_ACCESS_RW, pick_fd(w, ACCESS_FD));
}

static int access_replace(struct worker *w)
{
	return rc(_test_cmd_access_replace_ioas(CTX, pick_fd(w, ACCESS_FD),
						roll(w, 8) ? pick(w, IOAS) : 0));
}

static int new_dmabuf(struct worker *w)
{
	int fd;
	int ret = rc(_test_cmd_get_dmabuf(CTX, 2 * PG, &fd));

	/* Upstream's C does not say which descriptor it made. */
	if (!ret && fd > 2)
		put_fd(w, DMABUF_FD, fd);
	return ret;
}

static int revoke_dmabuf(struct worker *w)
{
	return rc(_test_cmd_revoke_dmabuf(CTX, pick_fd(w, DMABUF_FD), roll(w, 2)));
}

static int hw_info(struct worker *w)
{
	struct iommu_test_hw_info info;
	struct iommu_hw_info cmd = {
		.size = sizeof(cmd), .dev_id = pick(w, IDEV), .data_len = sizeof(info),
		.data_uptr = (uintptr_t)&info };

	return rc(ioctl(CTX, IOMMU_GET_HW_INFO, &cmd));
}

static int check_iotlb(struct worker *w)
{
	struct iommu_test_cmd cmd = { .check_iotlb = {
		.id = roll(w, 4), .iotlb = roll(w, 2) ? IOMMU_TEST_IOTLB_DEFAULT : 0 } };

	return test_op(CTX, &cmd, IOMMU_TEST_OP_MD_CHECK_IOTLB, pick(w, NESTED));
}

static int check_cache(struct worker *w)
{
	struct iommu_test_cmd cmd = { .check_dev_cache = {
		.id = roll(w, 4), .cache = roll(w, 4) ? IOMMU_TEST_DEV_CACHE_DEFAULT : 0 } };

	return test_op(CTX, &cmd, IOMMU_TEST_OP_DEV_CHECK_CACHE, pick(w, IDEV));
}

static int change_process(struct worker *w)
{
	struct iommu_ioas_change_process cmd = { .size = sizeof(cmd) };

	return rc(ioctl(CTX, IOMMU_IOAS_CHANGE_PROCESS, &cmd));
}

static int memory_limit(struct worker *w)
{
	static const unsigned int limits[] = { 65536, 65536, 4096, 256 };

	return rc(_test_ioctl_set_temp_memory_limit(CTX, limits[roll(w, 4)]));
}

static int destroy(struct worker *w)
{
	static const int weights[KINDS] = { [IOAS] = 1, [STDEV] = 2, [IDEV] = 1, [HWPT] = 3,
		[PARENT] = 2, [NESTED] = 4, [VIOMMU] = 2, [VDEVICE] = 4, [VEVENTQ] = 3,
		[FAULT] = 2, [HW_QUEUE] = 4 };
	int kind = -1, slot = roll(w, SLOTS);
	int n = roll(w, 28);
	__u32 id = 0;
	int ret;

	while (n >= 0)
		n -= weights[++kind];
	id = atomic_load(&ids[kind][slot]);
	ret = rc(_test_ioctl_destroy(CTX, id ?: pick(w, kind)));
	/* Unless another put a new one there. */
	if (!ret)
		atomic_compare_exchange_strong(&ids[kind][slot], &id, 0);
	return ret;
}

static int close_one(struct worker *w)
{
	int fd = atomic_exchange(&fds[roll(w, FD_KINDS)][roll(w, SLOTS)], 0);

	return fd ? rc(close(fd)) : -ENOENT;
}

/*
 * What each may answer. ENOENT: an id that is gone; EINVAL: an id of another
 * kind by now, or what does not go together; EBADF and EBADFD: a descriptor
 * that was closed, or is another's by now.
 */
static const struct op {
	const char *name;
	int (*run)(struct worker *w);
	int weight;
	/* How often it must have succeeded in a minute. */
	unsigned long wanted;
	int errors[8];
} ops[] = {
	{ "ioas_alloc", ioas_alloc, 8, 20, {} },
	{ "map_user", map_user, 24, 20, { ENOENT, EADDRINUSE, EINVAL, ENOSPC, EEXIST } },
	{ "map_file", map_file, 12, 20, { ENOENT, EADDRINUSE, EINVAL, ENOSPC, EEXIST } },
	{ "map_dmabuf", map_dmabuf, 6, 2,
	  { ENOENT, EADDRINUSE, EINVAL, ENOSPC, EEXIST, EBADF, ENODEV } },
	{ "unmap", unmap, 16, 20, { ENOENT, EBUSY, EINVAL } },
	{ "copy", copy, 16, 8, { ENOENT, EADDRINUSE, EINVAL, ENOSPC, EEXIST, EPERM } },
	{ "iova_ranges", iova_ranges, 6, 20, { ENOENT, EMSGSIZE } },
	{ "allow_iovas", allow_iovas, 2, 2, { ENOENT, EADDRINUSE } },
	{ "add_reserved", add_reserved, 4, 1, { ENOENT, EADDRINUSE } },
	{ "option", option, 4, 8, { ENOENT, EBUSY, EINVAL, EADDRINUSE } },
	{ "vfio_ioas", vfio_ioas, 4, 8, { ENOENT, ENODEV } },
	{ "vfio_map", vfio_map, 6, 2,
	  { ENODEV, ENOENT, EADDRINUSE, EINVAL, EBUSY, EEXIST, EOPNOTSUPP } },
	{ "new_device", new_device, 6, 8, { ENOENT, EINVAL, EADDRINUSE } },
	{ "replace", replace, 16, 20, { ENOENT, EINVAL, EADDRINUSE } },
	{ "pasid_attach", pasid_attach, 12, 8,
	  { ENOENT, EINVAL, EADDRINUSE, EBUSY, EOPNOTSUPP } },
	{ "pasid_replace", pasid_replace, 8, 4, { ENOENT, EINVAL, EADDRINUSE } },
	{ "pasid_detach", pasid_detach, 6, 8, { ENOENT } },
	{ "pasid_check", pasid_check, 4, 4, { ENOENT, EINVAL } },
	{ "hwpt_alloc", new_hwpt, 14, 8, { ENOENT, EINVAL, EOPNOTSUPP, EADDRINUSE } },
	{ "parent_alloc", new_parent, 12, 8, { ENOENT, EINVAL, EOPNOTSUPP, EADDRINUSE } },
	{ "nested_alloc", new_nested, 16, 8, { ENOENT, EINVAL, EOPNOTSUPP, EADDRINUSE } },
	{ "invalidate", invalidate_nested, 10, 8, { ENOENT, EINVAL, EOPNOTSUPP } },
	{ "viommu_invalidate", invalidate_viommu, 10, 2, { ENOENT, EINVAL, EOPNOTSUPP } },
	{ "viommu_alloc", new_viommu, 10, 4, { ENOENT, EINVAL, EOPNOTSUPP } },
	{ "vdevice_alloc", new_vdevice, 12, 4, { ENOENT, EINVAL, EEXIST, EBUSY } },
	{ "veventq_alloc", new_veventq, 10, 4, { ENOENT, EINVAL, EEXIST } },
	{ "hw_queue_alloc", new_hw_queue, 10, 1,
	  { ENOENT, EINVAL, EEXIST, EIO, EFAULT, EOPNOTSUPP } },
	{ "fault_alloc", new_fault_queue, 6, 8, {} },
	{ "guest", guest, 16, 2,
	  { ENOENT, EINVAL, EOPNOTSUPP, EADDRINUSE, EEXIST, EBUSY } },
	{ "page_fault", page_fault, 12, 8, { ENOENT } },
	{ "answer_faults", answer_faults, 12, 1, { EAGAIN, EBADF, EINVAL, ESPIPE } },
	{ "event", event, 12, 1, { ENOENT, EOPNOTSUPP } },
	{ "read_events", read_events, 10, 1, { EAGAIN, EBADF, EINVAL, ESPIPE } },
	{ "track_dirty", track_dirty, 6, 4, { ENOENT, EOPNOTSUPP } },
	{ "dirty_bitmap", dirty_bitmap, 8, 1, { ENOENT, EINVAL, EOPNOTSUPP } },
	{ "access_create", new_access, 6, 8, { ENOENT, EADDRINUSE } },
	{ "access_pin", access_pin, 12, 4, { ENOENT, EBADFD, EINVAL, EPERM } },
	{ "access_rw", access_rw, 12, 4, { ENOENT, EBADFD, EINVAL, EPERM } },
	{ "access_replace", access_replace, 6, 4, { ENOENT, EBADFD, EADDRINUSE } },
	{ "dmabuf_get", new_dmabuf, 3, 4, {} },
	{ "dmabuf_revoke", revoke_dmabuf, 3, 4, { EBADF, EINVAL } },
	{ "hw_info", hw_info, 4, 8, { ENOENT } },
	{ "check_iotlb", check_iotlb, 6, 4, { ENOENT, EINVAL } },
	{ "check_cache", check_cache, 4, 4, { ENOENT, EINVAL } },
	{ "change_process", change_process, 2, 1, { EINVAL, EBUSY } },
	{ "memory_limit", memory_limit, 1, 2, {} },
	{ "destroy", destroy, 60, 100, { ENOENT, EBUSY } },
	{ "close", close_one, 12, 8, { ENOENT } },
};

static int total_weight;

static void judge(const struct op *op, int ret, bool may_be_closed)
{
	int error = -ret;

	atomic_fetch_add(&shared->count[op - ops][error < ERRORS ? error : ERRORS - 1], 1);
	if (!error || (error == EBADF && may_be_closed))
		return;
	for (size_t i = 0; i < ARRAY_SIZE(op->errors); i++) {
		if (op->errors[i] == error)
			return;
	}
	fault("%s failed with %d (%s)", op->name, error, strerror(error));
}

static void *work(void *arg)
{
	struct worker *w = arg;

	while (!atomic_load(&stop)) {
		const struct op *op = ops;
		int n = roll(w, total_weight);
		int ret;

		while (n >= op->weight)
			n -= op++->weight;
		ret = op->run(w);
		judge(op, ret, atomic_load(&closing));
		if (ret == -EBADF && atomic_load(&closing) && fcntl(CTX, F_GETFD) < 0)
			break;
	}
	return NULL;
}

/* Destroys all; whatever the order was in which they were made, there is one that works. */
static void destroy_everything(void)
{
	__u32 last = atomic_load(&largest_id) + 64;
	bool progress = true;

	for (int kind = 0; kind < FD_KINDS; kind++) {
		for (int i = 0; i < SLOTS; i++) {
			if (fds[kind][i])
				close(fds[kind][i]);
			fds[kind][i] = 0;
		}
	}
	while (progress) {
		progress = false;
		for (__u32 id = last; id; id--)
			progress |= !_test_ioctl_destroy(CTX, id);
	}
	for (__u32 id = last; id; id--) {
		int ret = rc(_test_ioctl_destroy(CTX, id));

		if (ret != -ENOENT)
			fault("object %u cannot be destroyed: %s", id, strerror(-ret));
	}
	if (line_of("/proc/self/status", "VmPin:") > 0)
		fault("all is destroyed, and the process is charged for pinned pages");
	if (!nothing_pinned(memory, PAGES * PG))
		fault("all is destroyed, and pages are pinned");
}

/* One round, in a process of its own. */
static void round_main(uint64_t seed, unsigned int number, int end, unsigned int ms)
{
	struct iommu_option mode = {
		.size = sizeof(mode), .option_id = IOMMU_OPTION_RLIMIT_MODE,
		.op = IOMMU_OPTION_OP_SET };
	struct worker workers[THREADS];
	int fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);

	mode.val64 = mm_mode;
	if (fd < 0 || dup2(fd, CTX) != CTX || close(fd) || ioctl(CTX, IOMMU_OPTION, &mode)) {
		fault("no context: %s", strerror(errno));
		_exit(1);
	}
	for (int i = 0; i < THREADS; i++)
		seed_dice(&workers[i].dice, seed, number * THREADS + i);
	/* So that there is something to use and to destroy. */
	for (size_t op = 0; op < ARRAY_SIZE(ops); op++) {
		if (ops[op].run == destroy || ops[op].run == close_one)
			continue;
		for (int i = 0; i < SLOTS; i++)
			judge(&ops[op], ops[op].run(&workers[0]), false);
	}
	for (int i = 0; i < THREADS; i++) {
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i])) {
			fault("no thread");
			_exit(1);
		}
	}
	atomic_store(&shared->started, true);
	usleep(ms * 1000);
	if (end == 1) {
		/* Not all that lives on is known by an id: a descriptor keeps its context. */
		atomic_store(&closing, true);
		close(CTX);
	} else {
		atomic_store(&stop, true);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(workers[i].thread, NULL);
	if (end == 0) {
		destroy_everything();
		close(CTX);
	}
	_exit(0);
}

/* The witness: each step must do what it says, whatever happens elsewhere. */
#define MUST(condition)                                                                 \
	do {                                                                            \
		if (!(condition)) {                                                     \
			fault("witness, line %d: %s: %s", __LINE__, #condition,         \
			      strerror(errno));                                         \
			_exit(1);                                                       \
		}                                                                       \
	} while (0)

static int must_op(int fd, __u32 op, __u32 id, __u64 a, __u64 b, __u64 c)
{
	struct iommu_test_cmd cmd = { .check_map = { .iova = a, .length = b, .uptr = c } };

	return test_op(fd, &cmd, op, id);
}

static void witness_cycle(void *own)
{
	struct iommu_viommu_invalidate_selftest forget = {
		.flags = IOMMU_TEST_INVALIDATE_FLAG_ALL, .vdev_id = 7 };
	struct iommu_hwpt_invalidate_selftest flush = { .flags = IOMMU_TEST_INVALIDATE_FLAG_ALL };
	struct iommu_hwpt_selftest data = { .iotlb = IOMMU_TEST_IOTLB_DEFAULT };
	__u32 ioas, stdev, idev, hwpt, plain, parent, viommu, vdevice, queue, nested, fault_id;
	__u32 fault_fd, event_fd, access_fd, one = 1;
	__u64 iova = IOVA;
	int sequence = -1;
	char text[64] = {};
	struct iommu_test_cmd read_text = { .access_rw = {
		.iova = IOVA + 3 * PG - 8, .length = 16, .uptr = (uintptr_t)text } };
	int fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);

	MUST(fd >= 0);
	MUST(!_test_ioctl_fault_alloc(fd, &fault_id, &fault_fd));
	MUST(!_test_ioctl_ioas_alloc(fd, &ioas));
	MUST(!_test_ioctl_ioas_map(fd, ioas, own, 4 * PG, &iova,
				   IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE |
				   IOMMU_IOAS_MAP_WRITEABLE));
	MUST(!_test_cmd_mock_domain_flags(fd, ioas, MOCK_FLAGS_DEVICE_PASID, &stdev, &hwpt,
					  &idev));
	MUST(!must_op(fd, IOMMU_TEST_OP_MD_CHECK_MAP, hwpt, IOVA, 4 * PG, (uintptr_t)own));
	memset(own + 3 * PG - 8, 'w', 16);
	MUST(!_test_cmd_create_access(fd, ioas, &access_fd, 0));
	MUST(!test_op(fd, &read_text, IOMMU_TEST_OP_ACCESS_RW, access_fd));
	MUST(text[0] == 'w' && text[15] == 'w' && !text[16]);
	MUST(_test_ioctl_destroy(fd, ioas) && errno == EBUSY);
	MUST(!close(access_fd));

	MUST(!_test_cmd_hwpt_alloc(fd, idev, ioas, 0, IOMMU_HWPT_ALLOC_PASID, &plain,
				   IOMMU_HWPT_DATA_NONE, NULL, 0));
	MUST(!_test_cmd_hwpt_alloc(fd, idev, ioas, 0,
				   IOMMU_HWPT_ALLOC_NEST_PARENT | IOMMU_HWPT_ALLOC_PASID, &parent,
				   IOMMU_HWPT_DATA_NONE, NULL, 0));
	MUST(!must_op(fd, IOMMU_TEST_OP_MD_CHECK_MAP, parent, IOVA, 4 * PG, (uintptr_t)own));
	MUST(!_test_cmd_mock_domain_replace(fd, stdev, parent, NULL));
	/* It went with its last attachment. */
	MUST(_test_ioctl_destroy(fd, hwpt) && errno == ENOENT);
	MUST(!_test_cmd_viommu_alloc(fd, idev, parent, 0, IOMMU_VIOMMU_TYPE_SELFTEST, NULL, 0,
				     &viommu));
	MUST(!_test_cmd_vdevice_alloc(fd, viommu, idev, 7, &vdevice));
	MUST(!_test_cmd_veventq_alloc(fd, viommu, IOMMU_VEVENTQ_TYPE_SELFTEST, 4, &queue,
				      &event_fd));
	MUST(!_test_cmd_hwpt_alloc(fd, idev, viommu, fault_id,
				   IOMMU_HWPT_FAULT_ID_VALID | IOMMU_HWPT_ALLOC_PASID, &nested,
				   IOMMU_HWPT_DATA_SELFTEST, &data, sizeof(data)));
	MUST(!_test_cmd_mock_domain_replace(fd, stdev, nested, NULL));
	MUST(!_test_cmd_trigger_vevents(fd, idev, 3));
	MUST(!_test_cmd_read_vevents(fd, event_fd, 3, 7, &sequence));
	MUST(!_test_cmd_viommu_invalidate(fd, viommu, &forget,
					  IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST, sizeof(forget),
					  &one));
	MUST(one == 1 && !must_op(fd, IOMMU_TEST_OP_DEV_CHECK_CACHE, idev, 1, 0, 0));
	MUST(!must_op(fd, IOMMU_TEST_OP_MD_CHECK_IOTLB, nested,
		      1 | (__u64)IOMMU_TEST_IOTLB_DEFAULT << 32, 0, 0));
	MUST(!_test_cmd_hwpt_invalidate(fd, nested, &flush, IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
					sizeof(flush), &one));
	MUST(!must_op(fd, IOMMU_TEST_OP_MD_CHECK_IOTLB, nested, 1, 0, 0));
	MUST(!_test_cmd_trigger_iopf(fd, idev, 0, fault_fd));
	MUST(!_test_cmd_pasid_attach(fd, stdev, 5, nested));
	MUST(!_test_cmd_trigger_iopf(fd, idev, 5, fault_fd));
	MUST(!_test_cmd_pasid_replace(fd, stdev, 5, plain));
	MUST(_test_ioctl_destroy(fd, plain) && errno == EBUSY);
	MUST(!_test_cmd_pasid_detach(fd, stdev, 5));

	MUST(_test_ioctl_destroy(fd, viommu) && errno == EBUSY);
	MUST(!close(event_fd) && !_test_ioctl_destroy(fd, queue));
	MUST(!_test_ioctl_destroy(fd, vdevice));
	MUST(_test_ioctl_destroy(fd, nested) && errno == EBUSY);
	MUST(!_test_ioctl_destroy(fd, stdev));
	MUST(!_test_ioctl_destroy(fd, nested) && !_test_ioctl_destroy(fd, viommu));
	MUST(!_test_ioctl_destroy(fd, parent) && !_test_ioctl_destroy(fd, plain));
	MUST(!close(fault_fd) && !_test_ioctl_destroy(fd, fault_id));
	MUST(!_test_ioctl_destroy(fd, ioas));
	MUST(!must_op(fd, IOMMU_TEST_OP_MD_CHECK_REFS, 0, 4 * PG, (uintptr_t)own, 0));
	MUST(!close(fd));
	atomic_fetch_add(&shared->cycles, 1);
}

static void witness_main(void)
{
	void *own = mmap(NULL, 4 * PG, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	MUST(own != MAP_FAILED);
	while (!atomic_load(&shared->end)) {
		bool pause = atomic_load(&shared->pause);

		atomic_store(&shared->paused, pause);
		if (pause)
			usleep(2000);
		else
			witness_cycle(own);
	}
	_exit(0);
}

/* Between rounds the witness has nothing either, so that what is left is seen. */
static void pause_witness(bool pause)
{
	atomic_store(&shared->pause, pause);
	while (atomic_load(&shared->paused) != pause && !atomic_load(&shared->has_fault))
		usleep(1000);
}

/* A round that does not come to its end is one of threads that wait for each other. */
#define PATIENCE 50

static int reap(pid_t child, int *status)
{
	double limit = seconds() + PATIENCE;
	pid_t gone;

	while (!(gone = waitpid(child, status, WNOHANG))) {
		if (seconds() > limit) {
			kill(child, SIGKILL);
			return -ETIMEDOUT;
		}
		usleep(2000);
	}
	return gone == child ? 0 : -errno;
}

FIXTURE(stress)
{
	struct before before;
};

FIXTURE_SETUP(stress)
{
	note(&self->before);
	if (access("/dev/iommu", R_OK | W_OK))
		SKIP(return, "no /dev/iommu: %s", strerror(errno));
	ASSERT_TRUE(may_not_lock());
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	ASSERT_NE(MAP_FAILED, shared);
	memory = memfd_mmap(PAGES * PG, PROT_READ | PROT_WRITE, MAP_SHARED, &memory_fd);
	ASSERT_NE(MAP_FAILED, memory);
	for (size_t i = 0; i < ARRAY_SIZE(ops); i++)
		total_weight += ops[i].weight;
}

FIXTURE_TEARDOWN(stress)
{
	_test_ioctl_set_temp_memory_limit(open("/dev/iommu", O_RDWR), 65536);
}

static void print_counts(struct __test_metadata *_metadata, double took)
{
	unsigned long all = 0;

	for (size_t op = 0; op < ARRAY_SIZE(ops); op++) {
		char line[512];
		int length = snprintf(line, sizeof(line), "%-18s %7lu", ops[op].name,
				      shared->count[op][0]);

		all += shared->count[op][0];
		for (int error = 1; error < ERRORS; error++) {
			unsigned long n = shared->count[op][error];

			all += n;
			if (n)
				length += snprintf(line + length, sizeof(line) - length,
						   ", %s %lu", strerrorname_np(error) ?: "?", n);
		}
		TH_LOG("%s", line);
	}
	TH_LOG("%lu operations and %lu cycles of the witness in %.0f s", all, shared->cycles, took);
}

TEST_F_TIMEOUT(stress, one_context, 7200)
{
	unsigned long wanted_seconds = setting("STRESS_SECONDS", 60);
	uint64_t seed = some_seed("STRESS_SEED");
	unsigned int rounds[3] = {}, number = 0;
	double start = seconds();
	struct dice dice;
	pid_t witness;
	int status;

	TH_LOG("seed %llu: STRESS_SEED=%llu comes close to it again", (unsigned long long)seed,
	       (unsigned long long)seed);
	seed_dice(&dice, seed, UINT32_MAX);
	fflush(NULL);
	witness = fork();
	ASSERT_LE(0, witness);
	if (!witness)
		witness_main();
	while (seconds() - start < wanted_seconds && !shared->has_fault) {
		int end = number % 3;
		unsigned int ms = 100 + below(&dice, wanted_seconds * 50 < 2900 ?
						     wanted_seconds * 50 : 2900);
		const char *left;
		pid_t child;

		files_only = !below(&dice, 4);
		mm_mode = below(&dice, 2);
		pause_witness(false);
		atomic_store(&shared->started, false);
		child = fork();
		ASSERT_LE(0, child);
		if (!child)
			round_main(seed, number, end, ms);
		while (!atomic_load(&shared->started) && !atomic_load(&shared->has_fault))
			usleep(1000);
		if (end == 2) {
			usleep(ms * 1000);
			kill(child, SIGKILL);
		}
		if (reap(child, &status)) {
			fault("round %u (%s) does not end", number, end_names[end]);
			break;
		}
		if (end != 2 && status)
			fault("round %u (%s) ended with status %#x", number, end_names[end],
			      status);
		pause_witness(true);
		left = left_behind(&self->before, memory, PAGES * PG);
		if (left)
			fault("round %u (%s%s%s) left %s", number, end_names[end],
			      files_only ? ", files" : "", mm_mode ? ", process pays" : "", left);
		rounds[end]++;
		number++;
	}
	atomic_store(&shared->end, true);
	if (reap(witness, &status))
		fault("the witness does not end");
	print_counts(_metadata, seconds() - start);
	TH_LOG("rounds: %u destroyed, %u closed, %u killed", rounds[0], rounds[1], rounds[2]);
	ASSERT_FALSE(shared->has_fault)
		TH_LOG("%s", shared->fault);
	EXPECT_EQ(0, status);
	for (size_t op = 0; op < ARRAY_SIZE(ops); op++) {
		unsigned long wanted = ops[op].wanted * wanted_seconds / 60;

		EXPECT_LE(wanted, shared->count[op][0])
			TH_LOG("%s succeeded too rarely to say anything", ops[op].name);
	}
	EXPECT_LE(wanted_seconds / 6, shared->cycles);
	EXPECT_EQ(0, kmemleak_lines());
}

TEST_HARNESS_MAIN
