// SPDX-License-Identifier: GPL-2.0-only
/*
 * Ioctls of /dev/iommu at random: every command and every operation of the
 * test ioctl, structures of any size, fields that are right, nearly right, or
 * nonsense, pointers to anywhere. The answer must be among those that the
 * command may give, and nothing may change in user memory but what it says.
 * What the rules for sizes and pointers say for sure must be so.
 *
 * FUZZ_COUNT ioctls (300,000), FUZZ_SEED (any; it is printed): the same seed
 * gives the same calls. FUZZ_FIRST skips contexts before that one. Needs
 * CONFIG_IOMMUFD_TEST and no hardware. With VTD_DEVICE=bdf, a `pasid-dma` of QEMU's
 * behind a VT-d that nests, that device is one among the mock ones, does DMA, and its
 * vIOMMUs get what a guest could have written; elsewhere all that is refused.
 */
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <linux/vfio.h>

/* Made for the harness's fixtures. */
#pragma GCC diagnostic ignored "-Wunused-variable"
#include "iommufd_utils.h"
#include "vtd_pdma.h"
#include "vtd_viommu.h"
#include "iommufd_gone.h"

#define PAGES 64UL
#define IOVA ((uint64_t)MOCK_APERTURE_START)
#define GUARD 64
#define PATTERN 0xa5
/* Calls on one context. */
#define CALLS 4000

enum kind {
	NONE, IOAS, STDEV, IDEV, HWPT, TRACKED, PARENT, NESTED, VIOMMU, VDEVICE, VEVENTQ, FAULT,
	HW_QUEUE, KINDS
};

enum { FAULT_FD, EVENT_FD, ACCESS_FD, DMABUF_FD, FD_KINDS };

#define IDS 16
#define FDS 6

static struct dice dice;
static int ctx;
/* User memory bars IOMMU_IOAS_CHANGE_PROCESS. */
static bool files_only;
static uint32_t ids[KINDS][IDS];
static int fds[FD_KINDS][FDS];
/* What is mapped and pinned; a memfd. Behind it nothing can be read. */
static void *memory;
static int memory_fd;
/* Where structures lie, and where answers go: neither is ever mapped. */
static uint8_t *frame, *answers, *read_only;

#define roll(n) below(&dice, n)

struct place {
	uint16_t offset, size;
};

/* What a command may change, by offset in its structure; up to three places. */
struct command {
	const char *name;
	uint32_t nr;
	/* An operation of the test ioctl. */
	uint32_t op;
	uint16_t min, size;
	void (*fill)(void *arg);
	struct place out[4];
	/* Also: EFAULT, EINVAL, E2BIG, ENOMEM. */
	int errors[12];
	/* Of a thousand calls. */
	int weight;
	bool never;
	enum { OTHER, ATTACHES, MAPS } sort;
};

/* What all commands of a sort may answer as well. */
static const int sorts[][8] = {
	[ATTACHES] = { ENOENT, EADDRINUSE, EBUSY, ENODEV, EOPNOTSUPP, EEXIST },
	[MAPS] = { ENOENT, EOPNOTSUPP, EOVERFLOW, EEXIST, EADDRINUSE, ENOSPC, EPERM },
};

/* A buffer of user space's that the command may write to: not one byte more. */
static uint8_t *answer_at;
static uint64_t answer_length;

/* The device behind a VT-d; none where it has no BAR. */
static struct vtd real;

/* Half of what is asked for there, and little elsewhere, is VT-d's. */
static bool for_vtd(void)
{
	return !roll(real.bar ? 2 : 8);
}

static uint32_t id_of(enum kind kind)
{
	switch (roll(16)) {
	case 0: return any(&dice);
	case 1: return roll(40);
	case 2:
		kind = 1 + roll(KINDS - 1);
	}
	for (int i = 0; i < IDS; i++) {
		uint32_t id = ids[kind][roll(IDS)];

		if (id)
			return id;
	}
	return roll(20);
}

static int fd_of(int kind)
{
	switch (roll(16)) {
	case 0: return any(&dice);
	case 1:
		return roll(2) ? ctx : -1;
	case 2:
		kind = roll(FD_KINDS);
	}
	return fds[kind][roll(FDS)] ?: memory_fd;
}

static uint64_t some_length(void)
{
	switch (roll(16)) {
	case 0: return any(&dice);
	case 1: return UINT64_MAX - roll(PG);
	case 2: return roll(3 * PG);
	case 3: return 1ULL << roll(64);
	default: return (1 + roll(8)) * PG;
	}
}

static uint64_t some_iova(void)
{
	switch (roll(24)) {
	case 0: return any(&dice);
	case 1: return UINT64_MAX - roll(2 * PG);
	case 2: return 1ULL << roll(64);
	case 3: return IOVA + roll(16 * PG);
	default: return IOVA + roll(16) * PG;
	}
}

/* An address that is good for nothing, or one where only a part is. */
static uint64_t bad_address(void)
{
	switch (roll(10)) {
	case 0: return 0;
	case 1: return (uintptr_t)memory + PAGES * PG - roll(16);
	case 2: return (uintptr_t)memory + PAGES * PG;
	/* The last bytes of the stack, where the name of the program is. */
	case 3: return (1ULL << 47) - PG - roll(16);
	case 4: return (1ULL << 47) - roll(16);
	case 5: return 0xffff888000000000ULL + roll(1 << 20) * PG;
	case 6: return UINT64_MAX - roll(PG);
	case 7: return 0x8000000000000000ULL | any(&dice);
	case 8: return (uintptr_t)read_only + roll(PG);
	default: return any(&dice);
	}
}

static uint64_t some_address(void)
{
	return roll(8) ? (uintptr_t)memory + roll(PAGES - 8) * PG : bad_address();
}

/* Room for an answer of `length` bytes. */
static uint64_t answer_room(uint64_t length)
{
	if (!roll(8))
		return bad_address();
	answer_at = answers + GUARD + 8 * roll(64);
	answer_length = length;
	return (uintptr_t)answer_at;
}

/* Data that the command reads. */
static uint64_t given(const void *data, size_t length)
{
	if (!roll(8))
		return bad_address();
	memcpy(answers + 2 * PG, data, length);
	return (uintptr_t)answers + 2 * PG;
}

static uint32_t flags_of(uint32_t known)
{
	return roll(16) ? any(&dice) & known : 1U << roll(32);
}

static void fill_destroy(void *arg)
{
	struct iommu_destroy *cmd = arg;

	cmd->id = id_of(1 + roll(KINDS - 1));
}

static void fill_nothing(void *arg)
{
}

static void fill_iova_ranges(void *arg)
{
	struct iommu_ioas_iova_ranges *cmd = arg;

	cmd->ioas_id = id_of(IOAS);
	cmd->num_iovas = roll(16) ? roll(12) : any(&dice);
	cmd->allowed_iovas = answer_room(cmd->num_iovas * 16ULL);
}

static void fill_allow_iovas(void *arg)
{
	struct iommu_ioas_allow_iovas *cmd = arg;
	struct iommu_iova_range ranges[3] = {
		{ IOVA, MOCK_APERTURE_LAST }, { some_iova(), some_iova() },
		{ some_iova(), some_iova() } };

	cmd->ioas_id = id_of(IOAS);
	cmd->num_iovas = roll(16) ? roll(2) : roll(2) ? roll(4) : any(&dice);
	cmd->allowed_iovas = given(ranges, sizeof(ranges));
}

static uint32_t map_flags(void)
{
	return roll(8) ? IOMMU_IOAS_MAP_READABLE | (any(&dice) & 7) | (roll(4) ? 1 : 0) :
			 flags_of(7);
}

static void fill_map(void *arg)
{
	struct iommu_ioas_map *cmd = arg;

	cmd->flags = map_flags();
	cmd->ioas_id = files_only ? 0 : id_of(IOAS);
	cmd->user_va = some_address();
	cmd->length = some_length();
	cmd->iova = some_iova();
}

static void fill_map_file(void *arg)
{
	struct iommu_ioas_map_file *cmd = arg;

	cmd->flags = map_flags();
	cmd->ioas_id = id_of(IOAS);
	cmd->fd = roll(2) ? memory_fd : fd_of(DMABUF_FD);
	cmd->start = roll(4) ? roll(4) * PG : some_length();
	cmd->length = some_length();
	cmd->iova = some_iova();
}

static void fill_copy(void *arg)
{
	struct iommu_ioas_copy *cmd = arg;

	cmd->flags = map_flags() | (roll(8) ? 0 : MOCK_FLAGS_ACCESS_SYZ);
	cmd->dst_ioas_id = id_of(IOAS);
	cmd->src_ioas_id = id_of(IOAS);
	cmd->length = some_length();
	cmd->dst_iova = some_iova();
	cmd->src_iova = roll(4) ? some_iova() : roll(4) | roll(4) << 44;
}

static void fill_unmap(void *arg)
{
	struct iommu_ioas_unmap *cmd = arg;

	cmd->ioas_id = id_of(IOAS);
	cmd->iova = roll(8) ? some_iova() : 0;
	cmd->length = roll(8) ? some_length() : UINT64_MAX;
}

static void fill_option(void *arg)
{
	struct iommu_option *cmd = arg;

	cmd->option_id = roll(8) ? roll(2) : any(&dice);
	cmd->op = roll(8) ? roll(2) : any(&dice);
	cmd->object_id = cmd->option_id ? id_of(IOAS) : roll(8) == 0;
	cmd->val64 = roll(8) ? roll(2) : any(&dice);
}

static void fill_vfio_ioas(void *arg)
{
	struct iommu_vfio_ioas *cmd = arg;

	cmd->ioas_id = id_of(IOAS);
	cmd->op = roll(8) ? roll(3) : any(&dice);
}

static void fill_hwpt(void *arg)
{
	struct iommu_hwpt_selftest data = { .iotlb = 1, .pagetable_type = roll(3) };
	struct iommu_vtd_pasid_entry pe = vtd_pe(IOVA + roll(4) * PG, roll(4));
	struct iommu_hwpt_alloc *cmd = arg;

	cmd->flags = roll(2) ? roll(2) : flags_of(0xf);
	cmd->dev_id = id_of(IDEV);
	cmd->pt_id = id_of(roll(2) ? IOAS : roll(2) ? PARENT : VIOMMU);
	cmd->fault_id = id_of(FAULT);
	if (roll(3)) {
		cmd->data_type = roll(8) ? IOMMU_HWPT_DATA_SELFTEST : roll(5);
		cmd->data_len = roll(8) ? sizeof(data) : roll(16);
		cmd->data_uptr = given(&data, sizeof(data));
	}
	if (for_vtd()) {
		pe.flags = roll(4) ? roll(2) : any(&dice);
		for (int i = roll(8) ? 0 : roll(4); i; i--)
			pe.pe[roll(8)] ^= 1ULL << roll(64);
		cmd->flags = roll(4) ? roll(2) * IOMMU_HWPT_ALLOC_PASID : cmd->flags;
		cmd->pt_id = id_of(VIOMMU);
		cmd->data_type = roll(8) ? IOMMU_VTD_HWPT_DATA_PE : IOMMU_HWPT_DATA_VTD_S1;
		cmd->data_len = roll(8) ? sizeof(pe) : roll(80);
		cmd->data_uptr = given(&pe, sizeof(pe));
	}
}

static void fill_hw_info(void *arg)
{
	struct iommu_hw_info *cmd = arg;

	cmd->flags = roll(8) ? roll(2) : any(&dice);
	cmd->dev_id = id_of(IDEV);
	cmd->data_len = roll(8) ? roll(64) : roll(2 * PG);
	cmd->in_data_type = roll(2) ? 0 : roll(2) ? IOMMU_HW_INFO_TYPE_SELFTEST : any(&dice);
	cmd->data_uptr = answer_room(cmd->data_len);
}

static void fill_tracking(void *arg)
{
	struct iommu_hwpt_set_dirty_tracking *cmd = arg;

	cmd->flags = flags_of(1);
	cmd->hwpt_id = id_of(roll(8) ? TRACKED : HWPT);
}

static void fill_bitmap(void *arg)
{
	struct iommu_hwpt_get_dirty_bitmap *cmd = arg;
	uint64_t bits;

	cmd->hwpt_id = id_of(roll(8) ? TRACKED : HWPT);
	cmd->flags = flags_of(1);
	cmd->iova = some_iova();
	cmd->length = some_length();
	cmd->page_size = roll(8) ? PG >> roll(2) : 1ULL << roll(64);
	bits = cmd->length / cmd->page_size + 1;
	cmd->data = answer_room((bits / 64 + 1) * 8);
}

/* A guest's descriptor: of any type, mostly right. */
static struct iommu_vtd_inv_desc guest_desc(void)
{
	uint64_t at = roll(8) ? IOVA + roll(8) * PG : any(&dice) & ~0xf80ULL;
	struct iommu_vtd_inv_desc desc;

	switch (roll(64) ? roll(15) : 15) {
	case 0 ... 3:
		desc = vtd_page(roll(4), roll(4), at);
		break;
	case 4 ... 5:
		desc = vtd_pasid(roll(4), roll(4));
		break;
	case 6 ... 7:
		desc = vtd_iotlb(roll(4), 1 + roll(3));
		break;
	case 8 ... 10:
		desc = vtd_dev_tlb(roll(6), at & ~0xffeULL);
		break;
	case 11 ... 13:
		desc = vtd_pasid_dev_tlb(roll(6), roll(4), at & ~0x7feULL);
		break;
	case 14:
		desc = vtd_iotlb(0, 1);
		break;
	default:
		for (int i = 0; i < 4; i++)
			desc.qw[i] = roll(2) ? any(&dice) : 0;
	}
	if (!roll(64))
		desc.qw[roll(4)] ^= 1ULL << roll(64);
	return desc;
}

static void fill_guest_queue(struct iommu_hwpt_invalidate *cmd)
{
	size_t words = roll(4) ? 4 : 2;
	uint64_t queue[64 * 4];

	for (size_t i = 0; i < 64; i++) {
		struct iommu_vtd_inv_desc desc = guest_desc();

		memcpy(queue + i * words, desc.qw, words * 8);
	}
	cmd->hwpt_id = id_of(VIOMMU);
	cmd->data_uptr = given(queue, 64 * words * 8);
	cmd->data_type = roll(16) ? IOMMU_VTD_INVALIDATE_QI : IOMMU_HWPT_INVALIDATE_DATA_VTD_S1;
	cmd->entry_len = roll(16) ? words * 8 : roll(64);
	cmd->entry_num = roll(16) ? roll(roll(2) ? 8 : 80) : any(&dice);
}

static void fill_invalidate(void *arg)
{
	struct iommu_viommu_invalidate_selftest entries[16] = {};
	struct iommu_hwpt_invalidate *cmd = arg;
	uint32_t *word = (uint32_t *)entries;

	if (for_vtd()) {
		fill_guest_queue(cmd);
		return;
	}
	for (size_t i = 0; i < sizeof(entries) / 4; i++)
		word[i] = roll(16) ? roll(4) : any(&dice);
	cmd->hwpt_id = id_of(roll(2) ? NESTED : VIOMMU);
	cmd->data_uptr = given(entries, sizeof(entries));
	cmd->data_type = roll(8) ? IOMMU_HWPT_INVALIDATE_DATA_SELFTEST : any(&dice);
	cmd->entry_len = roll(8) ? (roll(2) ? 8 : 12) : roll(8) ? roll(32) : any(&dice);
	cmd->entry_num = roll(8) ? roll(8) : any(&dice);
}

static void fill_viommu(void *arg)
{
	struct iommu_viommu_selftest data = { .in_data = any(&dice) };
	struct iommu_viommu_alloc *cmd = arg;

	cmd->type = roll(8) ? IOMMU_VIOMMU_TYPE_SELFTEST : roll(4);
	cmd->dev_id = id_of(IDEV);
	cmd->hwpt_id = id_of(PARENT);
	if (for_vtd()) {
		cmd->type = IOMMU_VTD_VIOMMU_TYPE;
		cmd->dev_id = roll(4) && real.bar ? real.dev_id : cmd->dev_id;
		if (roll(4))
			return;
	}
	if (roll(2)) {
		cmd->data_len = roll(8) ? sizeof(data) : roll(64);
		cmd->data_uptr = given(&data, sizeof(data));
	}
}

static void fill_vdevice(void *arg)
{
	struct iommu_vdevice_alloc *cmd = arg;

	cmd->viommu_id = id_of(VIOMMU);
	cmd->dev_id = id_of(IDEV);
	cmd->virt_id = roll(8) ? roll(6) : any(&dice);
}

static void fill_veventq(void *arg)
{
	struct iommu_veventq_alloc *cmd = arg;

	cmd->viommu_id = id_of(VIOMMU);
	cmd->type = for_vtd() ? IOMMU_VTD_VEVENTQ_FRCD :
		    roll(8) ? IOMMU_VEVENTQ_TYPE_SELFTEST : roll(4);
	cmd->veventq_depth = roll(8) ? 1 + roll(8) : any(&dice);
}

static void fill_hw_queue(void *arg)
{
	struct iommu_hw_queue_alloc *cmd = arg;

	cmd->viommu_id = id_of(VIOMMU);
	cmd->type = roll(8) ? IOMMU_HW_QUEUE_TYPE_SELFTEST : roll(4);
	cmd->index = roll(8) ? roll(3) : any(&dice);
	cmd->nesting_parent_iova = some_iova();
	cmd->length = roll(4) ? PG : some_length();
}

static void fill_physical(void *arg)
{
	struct iommu_ioas_noiommu_get_pa *cmd = arg;

	cmd->ioas_id = id_of(IOAS);
	cmd->iova = some_iova();
	cmd->length = some_length();
}

#define OP(name) static void test_##name(struct iommu_test_cmd *cmd)
OP(reserved)
{
	cmd->id = id_of(IOAS);
	cmd->add_reserved.start = roll(8) ? 0x40000000 + roll(4096) * PG : some_iova();
	cmd->add_reserved.length = roll(8) ? PG : some_length();
}

OP(device)
{
	cmd->id = id_of(roll(8) ? IOAS : roll(2) ? HWPT : PARENT);
	cmd->mock_domain_flags.dev_flags = roll(8) ? roll(2) * MOCK_FLAGS_DEVICE_PASID :
						     flags_of(7);
}

static uint32_t target(void)
{
	static const enum kind kinds[] = { IOAS, HWPT, TRACKED, PARENT, NESTED, NESTED };

	return id_of(kinds[roll(6)]);
}

OP(replace)
{
	cmd->id = id_of(STDEV);
	cmd->mock_domain_replace.pt_id = target();
}

OP(check_map)
{
	cmd->id = id_of(roll(2) ? HWPT : PARENT);
	cmd->check_map.iova = some_iova();
	cmd->check_map.length = roll(16) ? some_length() : 0;
	cmd->check_map.uptr = some_address();
}

OP(check_refs)
{
	cmd->check_refs.length = roll(4) ? some_length() : 0;
	cmd->check_refs.uptr = some_address();
	cmd->check_refs.refs = roll(3);
}

OP(access)
{
	cmd->id = id_of(IOAS);
	cmd->create_access.flags = roll(8) ? 1 : flags_of(1);
}

OP(unpin)
{
	cmd->id = fd_of(ACCESS_FD);
	cmd->destroy_access_pages.access_pages_id = roll(8);
}

static uint32_t access_flags(void)
{
	return roll(16) ? roll(2) | (roll(4) ? 0 : 4) | (roll(4) ? 0 : MOCK_FLAGS_ACCESS_SYZ) :
			  1U << roll(32);
}

static uint64_t syz_iova(uint32_t flags)
{
	return flags & MOCK_FLAGS_ACCESS_SYZ ? roll(4) | roll(4) << 44 : some_iova();
}

OP(pin)
{
	cmd->id = fd_of(ACCESS_FD);
	cmd->access_pages.flags = access_flags() & ~(roll(8) ? 4 : 0);
	cmd->access_pages.iova = syz_iova(cmd->access_pages.flags);
	cmd->access_pages.length = some_length();
	cmd->access_pages.uptr = roll(2) ? 0 : some_address();
}

OP(rw)
{
	cmd->id = fd_of(ACCESS_FD);
	cmd->access_rw.flags = access_flags();
	cmd->access_rw.iova = syz_iova(cmd->access_rw.flags);
	cmd->access_rw.length = roll(2) ? roll(256) : some_length();
	cmd->access_rw.uptr = answer_room(cmd->access_rw.length);
}

OP(limit)
{
	cmd->memory_limit.limit = roll(2) ? 65536 : roll(200);
}

OP(access_replace)
{
	cmd->id = fd_of(ACCESS_FD);
	cmd->access_replace_ioas.ioas_id = roll(8) ? id_of(IOAS) : 0;
}

OP(dirty)
{
	uint64_t bitmap[8];

	for (int i = 0; i < 8; i++)
		bitmap[i] = any(&dice);
	cmd->id = id_of(roll(8) ? TRACKED : HWPT);
	cmd->dirty.iova = some_iova();
	cmd->dirty.length = some_length();
	cmd->dirty.page_size = roll(8) ? PG : 1ULL << roll(64);
	cmd->dirty.uptr = given(bitmap, sizeof(bitmap));
}

OP(check)
{
	cmd->id = id_of(cmd->op == IOMMU_TEST_OP_MD_CHECK_IOTLB ? NESTED : IDEV);
	cmd->check_iotlb.id = roll(8) ? roll(4) : any(&dice);
	cmd->check_iotlb.iotlb = cmd->op == IOMMU_TEST_OP_MD_CHECK_IOTLB ?
		roll(2) : (roll(2) ? 0 : IOMMU_TEST_DEV_CACHE_DEFAULT);
}

OP(page_fault)
{
	cmd->trigger_iopf.dev_id = id_of(IDEV);
	cmd->trigger_iopf.pasid = roll(8) ? roll(2) * roll(4) : any(&dice);
	cmd->trigger_iopf.grpid = roll(4);
	cmd->trigger_iopf.perm = any(&dice);
	cmd->trigger_iopf.addr = any(&dice);
}

OP(event)
{
	cmd->trigger_vevent.dev_id = id_of(IDEV);
}

OP(pasid)
{
	cmd->id = id_of(STDEV);
	cmd->pasid_attach.pasid = roll(8) ? roll(5) : roll(2) ? IOMMU_TEST_PASID_RESERVED :
								 any(&dice);
	cmd->pasid_attach.pt_id = cmd->op == IOMMU_TEST_OP_PASID_CHECK_HWPT && roll(2) ?
		0 : target();
}

OP(dmabuf)
{
	cmd->dmabuf_get.length = roll(8) ? (1 + roll(8)) * PG : some_length();
	cmd->dmabuf_get.open_flags = roll(8) ? O_CLOEXEC : any(&dice);
}

OP(revoke)
{
	cmd->dmabuf_revoke.dmabuf_fd = fd_of(DMABUF_FD);
	cmd->dmabuf_revoke.revoked = roll(2);
}

OP(unknown)
{
	cmd->op = roll(2) ? 24 + roll(8) : roll(2) ? 0 : any(&dice) | 64;
}

static void (*const test_fill[])(struct iommu_test_cmd *cmd) = {
	[0] = test_unknown,
	[IOMMU_TEST_OP_ADD_RESERVED] = test_reserved,
	[IOMMU_TEST_OP_MOCK_DOMAIN] = test_device,
	[IOMMU_TEST_OP_MD_CHECK_MAP] = test_check_map,
	[IOMMU_TEST_OP_MD_CHECK_REFS] = test_check_refs,
	[IOMMU_TEST_OP_CREATE_ACCESS] = test_access,
	[IOMMU_TEST_OP_DESTROY_ACCESS_PAGES] = test_unpin,
	[IOMMU_TEST_OP_ACCESS_PAGES] = test_pin,
	[IOMMU_TEST_OP_ACCESS_RW] = test_rw,
	[IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT] = test_limit,
	[IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE] = test_replace,
	[IOMMU_TEST_OP_ACCESS_REPLACE_IOAS] = test_access_replace,
	[IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS] = test_device,
	[IOMMU_TEST_OP_DIRTY] = test_dirty,
	[IOMMU_TEST_OP_MD_CHECK_IOTLB] = test_check,
	[IOMMU_TEST_OP_TRIGGER_IOPF] = test_page_fault,
	[IOMMU_TEST_OP_DEV_CHECK_CACHE] = test_check,
	[IOMMU_TEST_OP_TRIGGER_VEVENT] = test_event,
	[IOMMU_TEST_OP_PASID_ATTACH] = test_pasid,
	[IOMMU_TEST_OP_PASID_REPLACE] = test_pasid,
	[IOMMU_TEST_OP_PASID_DETACH] = test_pasid,
	[IOMMU_TEST_OP_PASID_CHECK_HWPT] = test_pasid,
	[IOMMU_TEST_OP_DMABUF_GET] = test_dmabuf,
	[IOMMU_TEST_OP_DMABUF_REVOKE] = test_revoke,
};

#define AT(type, member) { offsetof(struct type, member), sizeof(((struct type *)0)->member) }
#define COMMAND(nr, type, last, ...) \
	{ #nr + 6, nr, 0, offsetof(struct type, last) + sizeof(((struct type *)0)->last), \
	  sizeof(struct type), __VA_ARGS__ }
#define ROW(op, ...) \
	{ #op + 14, IOMMU_TEST_CMD, op, offsetof(struct iommu_test_cmd, last) + 4, \
	  sizeof(struct iommu_test_cmd), NULL, __VA_ARGS__ }
#define OUT(member) AT(iommu_test_cmd, member)

static const struct command commands[] = {
	COMMAND(IOMMU_DESTROY, iommu_destroy, id, fill_destroy, {}, { ENOENT, EBUSY }, 90),
	COMMAND(IOMMU_IOAS_ALLOC, iommu_ioas_alloc, out_ioas_id, fill_nothing,
	  { AT(iommu_ioas_alloc, out_ioas_id) }, { EOPNOTSUPP }, 25),
	COMMAND(IOMMU_IOAS_ALLOW_IOVAS, iommu_ioas_allow_iovas, allowed_iovas,
	  fill_allow_iovas, {}, { EOPNOTSUPP, ENOENT, EADDRINUSE }, 20),
	COMMAND(IOMMU_IOAS_COPY, iommu_ioas_copy, src_iova, fill_copy,
	  { AT(iommu_ioas_copy, dst_iova), AT(iommu_ioas_copy, src_iova),
	    AT(iommu_ioas_copy, flags) }, {}, 50, false, MAPS),
	COMMAND(IOMMU_IOAS_IOVA_RANGES, iommu_ioas_iova_ranges, out_iova_alignment,
	  fill_iova_ranges, { AT(iommu_ioas_iova_ranges, num_iovas),
	    AT(iommu_ioas_iova_ranges, out_iova_alignment) },
	  { EOPNOTSUPP, ENOENT, EMSGSIZE }, 20),
	COMMAND(IOMMU_IOAS_MAP, iommu_ioas_map, iova, fill_map, { AT(iommu_ioas_map, iova) },
	  {}, 90, false, MAPS),
	COMMAND(IOMMU_IOAS_MAP_FILE, iommu_ioas_map_file, iova, fill_map_file,
	  { AT(iommu_ioas_map_file, iova) }, { EBADF, ENODEV }, 50, false, MAPS),
	COMMAND(IOMMU_IOAS_UNMAP, iommu_ioas_unmap, length, fill_unmap,
	  { AT(iommu_ioas_unmap, length) }, { ENOENT, EOVERFLOW, EBUSY }, 50),
	COMMAND(IOMMU_OPTION, iommu_option, val64, fill_option, { AT(iommu_option, val64) },
	  { EOPNOTSUPP, ENOENT, EBUSY, EADDRINUSE }, 20),
	COMMAND(IOMMU_VFIO_IOAS, iommu_vfio_ioas, __reserved, fill_vfio_ioas,
	  { AT(iommu_vfio_ioas, ioas_id) }, { EOPNOTSUPP, ENOENT, ENODEV }, 15),
	COMMAND(IOMMU_HWPT_ALLOC, iommu_hwpt_alloc, __reserved, fill_hwpt,
	  { AT(iommu_hwpt_alloc, out_hwpt_id) }, { ENOSPC }, 80, false, ATTACHES),
	COMMAND(IOMMU_GET_HW_INFO, iommu_hw_info, __reserved, fill_hw_info,
	  { AT(iommu_hw_info, data_len), AT(iommu_hw_info, in_data_type),
	    AT(iommu_hw_info, out_max_pasid_log2), AT(iommu_hw_info, out_capabilities) },
	  { EOPNOTSUPP, ENOENT }, 20),
	COMMAND(IOMMU_HWPT_SET_DIRTY_TRACKING, iommu_hwpt_set_dirty_tracking, __reserved,
	  fill_tracking, {}, { EOPNOTSUPP, ENOENT }, 15),
	COMMAND(IOMMU_HWPT_GET_DIRTY_BITMAP, iommu_hwpt_get_dirty_bitmap, data, fill_bitmap, {},
	  { EOPNOTSUPP, ENOENT, EOVERFLOW }, 20),
	COMMAND(IOMMU_HWPT_INVALIDATE, iommu_hwpt_invalidate, __reserved, fill_invalidate,
	  { AT(iommu_hwpt_invalidate, entry_num) }, { EOPNOTSUPP, ENOENT, ENODEV }, 30),
	COMMAND(IOMMU_FAULT_QUEUE_ALLOC, iommu_fault_alloc, out_fault_fd, fill_nothing,
	  { AT(iommu_fault_alloc, out_fault_id), AT(iommu_fault_alloc, out_fault_fd) },
	  { EOPNOTSUPP }, 15),
	COMMAND(IOMMU_VIOMMU_ALLOC, iommu_viommu_alloc, out_viommu_id, fill_viommu,
	  { AT(iommu_viommu_alloc, out_viommu_id) }, { EOPNOTSUPP, ENOENT }, 30),
	COMMAND(IOMMU_VDEVICE_ALLOC, iommu_vdevice_alloc, virt_id, fill_vdevice,
	  { AT(iommu_vdevice_alloc, out_vdevice_id) }, { ENOENT, EEXIST }, 30),
	COMMAND(IOMMU_IOAS_CHANGE_PROCESS, iommu_ioas_change_process, __reserved, fill_nothing,
	  {}, { EOPNOTSUPP, EBUSY }, 5),
	COMMAND(IOMMU_VEVENTQ_ALLOC, iommu_veventq_alloc, out_veventq_fd, fill_veventq,
	  { AT(iommu_veventq_alloc, out_veventq_id), AT(iommu_veventq_alloc, out_veventq_fd) },
	  { EOPNOTSUPP, ENOENT, EEXIST }, 20),
	COMMAND(IOMMU_HW_QUEUE_ALLOC, iommu_hw_queue_alloc, length, fill_hw_queue,
	  { AT(iommu_hw_queue_alloc, out_hw_queue_id) },
	  { EOPNOTSUPP, EOVERFLOW, ERANGE, ENOENT, EEXIST, EIO, EPERM,
	    EADDRINUSE }, 25),
	COMMAND(IOMMU_IOAS_NOIOMMU_GET_PA, iommu_ioas_noiommu_get_pa, out_phys, fill_physical,
	  {}, { EOPNOTSUPP, EPERM, ENOENT, EOVERFLOW }, 5, true),

	{ "TEST unknown", IOMMU_TEST_CMD, 0, offsetof(struct iommu_test_cmd, last) + 4,
	  sizeof(struct iommu_test_cmd), NULL, {}, { EOPNOTSUPP }, 5, true },
	ROW(IOMMU_TEST_OP_ADD_RESERVED, {}, { ENOENT, EOVERFLOW, EADDRINUSE }, 2),
	ROW(IOMMU_TEST_OP_MOCK_DOMAIN, { OUT(mock_domain) }, {}, 10, false, ATTACHES),
	ROW(IOMMU_TEST_OP_MD_CHECK_MAP, {}, { ENOENT }, 10),
	ROW(IOMMU_TEST_OP_MD_CHECK_REFS, {}, { EIO }, 5),
	ROW(IOMMU_TEST_OP_CREATE_ACCESS, { OUT(create_access.out_access_fd) },
	  { ENOENT, EOPNOTSUPP, EADDRINUSE }, 15),
	ROW(IOMMU_TEST_OP_DESTROY_ACCESS_PAGES, {}, { ENOENT, EBADFD }, 15),
	ROW(IOMMU_TEST_OP_ACCESS_PAGES, { OUT(access_pages.out_access_pages_id) },
	  { ENOENT, EOPNOTSUPP, EBADFD, EBADE, EOVERFLOW, EPERM, ENODEV }, 30),
	ROW(IOMMU_TEST_OP_ACCESS_RW, {},
	  { ENOENT, EOPNOTSUPP, EBADFD, EOVERFLOW, EPERM, ENODEV }, 30),
	ROW(IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT, {}, {}, 3),
	ROW(IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, { OUT(mock_domain_replace.pt_id) },
	  {}, 30, false, ATTACHES),
	ROW(IOMMU_TEST_OP_ACCESS_REPLACE_IOAS, {}, { ENOENT, EBADFD, EADDRINUSE }, 10),
	ROW(IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS, { OUT(mock_domain) }, {}, 15, false, ATTACHES),
	ROW(IOMMU_TEST_OP_DIRTY, { OUT(dirty.out_nr_dirty) }, { ENOENT, EOVERFLOW }, 15),
	ROW(IOMMU_TEST_OP_MD_CHECK_IOTLB, {}, { ENOENT }, 10),
	ROW(IOMMU_TEST_OP_TRIGGER_IOPF, {}, { ENOENT }, 15),
	ROW(IOMMU_TEST_OP_DEV_CHECK_CACHE, {}, { ENOENT }, 10),
	ROW(IOMMU_TEST_OP_TRIGGER_VEVENT, {}, { ENOENT, EOPNOTSUPP }, 15),
	ROW(IOMMU_TEST_OP_PASID_ATTACH, { OUT(pasid_attach.pt_id) }, {}, 25, false, ATTACHES),
	ROW(IOMMU_TEST_OP_PASID_REPLACE, { OUT(pasid_replace.pt_id) }, {}, 20, false, ATTACHES),
	ROW(IOMMU_TEST_OP_PASID_DETACH, {}, { ENOENT }, 15),
	ROW(IOMMU_TEST_OP_PASID_CHECK_HWPT, {}, { ENOENT }, 10),
	ROW(IOMMU_TEST_OP_DMABUF_GET, {}, {}, 5),
	ROW(IOMMU_TEST_OP_DMABUF_REVOKE, {}, { EBADF }, 5),
};

/* Calls that are no command of the table, and VFIO's. */
enum { UNKNOWN = ARRAY_SIZE(commands), VFIO, EVENTS, REAL, ROWS };

static const char *const more_names[] = { "no ioctl", "VFIO", "event files", "VT-d device" };

#define ERRORS 160
static unsigned long counts[ROWS][ERRORS];
static uint64_t calls;
static char wrong[256];

static __printf(1, 2) void complain(const char *format, ...)
{
	va_list args;

	if (wrong[0])
		return;
	va_start(args, format);
	vsnprintf(wrong, sizeof(wrong), format, args);
	va_end(args);
}

static void count(int row, int error)
{
	counts[row][error < ERRORS ? error : ERRORS - 1]++;
}

static void remember(enum kind kind, uint32_t id)
{
	ids[kind][roll(IDS)] = id;
}

static void remember_fd(int kind, int fd)
{
	int *slot = &fds[kind][roll(FDS)];

	if (*slot)
		close(*slot);
	*slot = fd;
}

/* What a command made. */
static void harvest(const struct command *command, void *arg, int ret)
{
	struct iommu_test_cmd *test = arg;

	switch (command->nr) {
	case IOMMU_DESTROY: {
		uint32_t id = ((struct iommu_destroy *)arg)->id;

		for (int kind = 0; kind < KINDS; kind++) {
			for (int i = 0; i < IDS; i++) {
				if (ids[kind][i] == id)
					ids[kind][i] = 0;
			}
		}
		break;
	}
	case IOMMU_IOAS_ALLOC:
		remember(IOAS, ((struct iommu_ioas_alloc *)arg)->out_ioas_id);
		break;
	case IOMMU_HWPT_ALLOC: {
		struct iommu_hwpt_alloc *cmd = arg;
		bool parent = cmd->flags & IOMMU_HWPT_ALLOC_NEST_PARENT;

		remember(parent ? PARENT : cmd->data_len && roll(2) ? NESTED :
			 cmd->flags & IOMMU_HWPT_ALLOC_DIRTY_TRACKING ? TRACKED : HWPT,
			 cmd->out_hwpt_id);
		break;
	}
	case IOMMU_FAULT_QUEUE_ALLOC: {
		struct iommu_fault_alloc *cmd = arg;

		remember(FAULT, cmd->out_fault_id);
		remember_fd(FAULT_FD, cmd->out_fault_fd);
		break;
	}
	case IOMMU_VIOMMU_ALLOC:
		remember(VIOMMU, ((struct iommu_viommu_alloc *)arg)->out_viommu_id);
		break;
	case IOMMU_VDEVICE_ALLOC:
		remember(VDEVICE, ((struct iommu_vdevice_alloc *)arg)->out_vdevice_id);
		break;
	case IOMMU_VEVENTQ_ALLOC: {
		struct iommu_veventq_alloc *cmd = arg;

		remember(VEVENTQ, cmd->out_veventq_id);
		remember_fd(EVENT_FD, cmd->out_veventq_fd);
		break;
	}
	case IOMMU_HW_QUEUE_ALLOC:
		remember(HW_QUEUE, ((struct iommu_hw_queue_alloc *)arg)->out_hw_queue_id);
		break;
	case IOMMU_TEST_CMD:
		if (test->op == IOMMU_TEST_OP_MOCK_DOMAIN ||
		    test->op == IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS) {
			remember(STDEV, test->mock_domain.out_stdev_id);
			remember(IDEV, test->mock_domain.out_idev_id);
			remember(HWPT, test->mock_domain.out_hwpt_id);
		} else if (test->op == IOMMU_TEST_OP_CREATE_ACCESS) {
			remember_fd(ACCESS_FD, test->create_access.out_access_fd);
		} else if (test->op == IOMMU_TEST_OP_DMABUF_GET && ret > 2) {
			remember_fd(DMABUF_FD, ret);
		}
	}
}

/* Breaks a good structure: a word of it becomes one that may mean anything. */
static void mutate(void *arg, size_t size)
{
	uint32_t *word = (uint32_t *)arg + 1 + roll(size / 4 - 1);

	switch (roll(6)) {
	case 0:
		*word = 0;
		break;
	case 1:
		*word = UINT32_MAX;
		break;
	case 2:
		*word ^= 1U << roll(32);
		break;
	case 3:
		*word = id_of(1 + roll(KINDS - 1));
		break;
	case 4:
		*word = 1U << roll(32);
		break;
	case 5:
		*word = any(&dice);
		break;
	}
}

static uint32_t some_size(const struct command *command)
{
	switch (roll(40)) {
	case 0: return 0;
	case 1: return 1;
	case 2: return command->min - 1;
	case 3: case 4: case 5: return command->min;
	case 6: return command->min + 1;
	case 7: return command->size + 1;
	case 8: case 9: return command->size + 8;
	case 10: return PG;
	case 11: return PG + 1;
	case 12:
		return roll(2) ? UINT32_MAX : any(&dice);
	default: return command->size;
	}
}

static bool may_answer(const struct command *command, int error)
{
	if (!error || error == EFAULT || error == EINVAL || error == E2BIG || error == ENOMEM)
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(command->errors); i++) {
		if (command->errors[i] == error)
			return true;
	}
	for (size_t i = 0; i < ARRAY_SIZE(sorts[0]); i++) {
		if (sorts[command->sort][i] == error)
			return true;
	}
	return false;
}

/* Nothing but what the command answers with may differ. */
static void compare(const struct command *command, const uint8_t *now, const uint8_t *then,
		    size_t size)
{
	for (size_t i = 0; i < size; i++) {
		bool allowed = false;

		if (now[i] == then[i])
			continue;
		for (size_t n = 0; n < ARRAY_SIZE(command->out); n++)
			allowed |= i >= command->out[n].offset &&
				   i < command->out[n].offset + command->out[n].size;
		if (!allowed) {
			complain("%s changed byte %zu of its structure from %#x to %#x",
				 command->name, i, then[i], now[i]);
			return;
		}
	}
}

static bool all_are(const uint8_t *bytes, size_t length, uint8_t value)
{
	for (size_t i = 0; i < length; i++) {
		if (bytes[i] != value)
			return false;
	}
	return true;
}

#define FRAME_PAGES 4UL

/* One call of a command in the table. */
static void call(const struct command *command)
{
	static uint8_t good[1024], then[FRAME_PAGES * 4096];
	uint32_t size = some_size(command);
	/* What lies there; the kernel may be told that there is more. */
	size_t real = size <= (FRAME_PAGES - 1) * PG ? size : command->size;
	size_t head = real < command->size ? real : command->size;
	bool tail_is_zero = roll(8), at_end = roll(4) == 0;
	uint8_t *at;
	int ret, error;

	if (real < 4)
		real = 4;
	memset(good, 0, command->size);
	answer_length = 0;
	if (command->fill) {
		command->fill(good);
	} else {
		struct iommu_test_cmd *test = (void *)good;

		test->op = command->op;
		test_fill[command->op](test);
	}
	for (int i = roll(8) ? 0 : 1 + roll(2); i; i--) {
		uint32_t op = ((struct iommu_test_cmd *)good)->op;

		mutate(good, command->size);
		/* Maybe it is elsewhere now. */
		answer_length = 0;
		/* What it does is known by the row. */
		if (command->nr == IOMMU_TEST_CMD)
			((struct iommu_test_cmd *)good)->op = op;
	}
	memcpy(good, &size, 4);

	at = at_end ? frame + FRAME_PAGES * PG - real : frame + GUARD + 8 * roll(32);
	memset(at - GUARD, PATTERN, real + (at_end ? GUARD : 2 * GUARD));
	memcpy(at, good, head < 4 ? 4 : head);
	if (real > command->size) {
		memset(at + command->size, 0, real - command->size);
		if (!tail_is_zero)
			at[command->size + roll(real - command->size)] = 1 + roll(255);
	}
	memcpy(then, at, real);
	if (answer_length && answer_length <= PG)
		memset(answer_at - GUARD, PATTERN, answer_length + 2 * GUARD);
	else
		answer_length = 0;

	if (!roll(40)) {
		/* It can be read, but there is no room for an answer. */
		memcpy(read_only - PG, good, command->size);
		mprotect(read_only - PG, PG, PROT_READ);
		ret = ioctl(ctx, command->nr, read_only - PG);
		error = ret < 0 ? errno : 0;
		mprotect(read_only - PG, PG, PROT_READ | PROT_WRITE);
		if (!may_answer(command, error))
			complain("%s, read only: %s", command->name, strerrorname_np(error));
		if (!error && command->out[0].size && command->nr != IOMMU_OPTION &&
		    command->nr != IOMMU_VFIO_IOAS)
			complain("%s had no room to answer, and succeeded", command->name);
		count(command - commands, error);
		return;
	}
	if (!roll(40)) {
		ret = ioctl(ctx, command->nr, bad_address());
		error = ret < 0 ? errno : 0;
		/* What is there by chance may be a size. */
		if (error != EFAULT && error != EINVAL && error != E2BIG &&
		    !may_answer(command, error))
			complain("%s, nowhere: %s", command->name, strerrorname_np(error));
		count(command - commands, error);
		return;
	}

	ret = ioctl(ctx, command->nr, at);
	error = ret < 0 ? errno : 0;
	count(command - commands, error);
	if (ret > 0 && command->op != IOMMU_TEST_OP_DMABUF_GET)
		complain("%s returned %d", command->name, ret);
	if (!may_answer(command, error))
		complain("%s: %s is none of its errors", command->name, strerrorname_np(error));
	if (size < command->min && error != EINVAL)
		complain("%s of %u bytes: %d instead of EINVAL", command->name, size, error);
	if (size > command->size && size == real && !tail_is_zero && error != E2BIG)
		complain("%s of %u bytes, not zero at the end: %d", command->name, size, error);
	/* The driver's data has a size of its own. */
	if (error == E2BIG && size <= command->size && command->nr != IOMMU_HWPT_ALLOC &&
	    command->nr != IOMMU_HWPT_INVALIDATE && command->nr != IOMMU_VIOMMU_ALLOC)
		complain("%s of %u bytes is too big", command->name, size);
	compare(command, at, then, real);
	if (!all_are(at - GUARD, GUARD, PATTERN) ||
	    (!at_end && !all_are(at + real, GUARD, PATTERN)))
		complain("%s wrote beside its structure", command->name);
	if (answer_length && (!all_are(answer_at - GUARD, GUARD, PATTERN) ||
			      !all_are(answer_at + answer_length, GUARD, PATTERN)))
		complain("%s wrote beside the room for its answer", command->name);
	if (!error) {
		/* A short structure has no room for all of them. */
		memset(then, 0, sizeof(struct iommu_test_cmd));
		memcpy(then, at, real < command->size ? real : command->size);
		harvest(command, then, ret);
	}
}

/* Numbers near those of commands, and commands with bits that they do not have. */
static void call_unknown(void)
{
	uint32_t nr = roll(2) ? _IO(IOMMUFD_TYPE, 0x96 + roll(0x6a)) :
			roll(2) ? commands[roll(ARRAY_SIZE(commands))].nr ^ (1U << (8 + roll(24))) :
			_IO(IOMMUFD_TYPE, roll(100));
	int error;

	if (nr == IOMMU_TEST_CMD)
		return;
	memset(frame, 0, 256);
	*(uint32_t *)frame = roll(256);
	error = ioctl(ctx, nr, roll(8) ? (uint64_t)(uintptr_t)frame : bad_address()) < 0 ?
		errno : 0;
	count(UNKNOWN, error);
	if (error != ENOTTY && error != EFAULT)
		complain("ioctl %#x: %s", nr, strerrorname_np(error) ?: "success");
}

static void call_vfio(void)
{
	static const int allowed[] = { 0, ENOTTY, EFAULT, EINVAL, ENODEV, ENOENT, EEXIST, ENOMEM,
				       EADDRINUSE, EOVERFLOW, EBUSY, EPERM,
				       EOPNOTSUPP };
	uint32_t nr = _IO(VFIO_TYPE, VFIO_BASE + roll(28));
	struct vfio_iommu_type1_dma_map map = {
		.argsz = roll(8) ? sizeof(map) : roll(64),
		.flags = roll(8) ? 1 + roll(3) : any(&dice),
		.vaddr = some_address(), .iova = some_iova(), .size = some_length() };
	struct vfio_iommu_type1_dma_unmap gone = {
		.argsz = roll(8) ? sizeof(gone) : roll(64), .flags = roll(8) ? 0 : flags_of(7),
		.iova = some_iova(), .size = some_length() };
	uint64_t arg = (uintptr_t)frame + GUARD;
	size_t room = roll(8) ? roll(256) : roll(24);
	size_t written = room;
	int ret, error;

	memset(frame, PATTERN, room + 2 * GUARD);
	if (nr == VFIO_IOMMU_MAP_DMA) {
		memcpy(frame + GUARD, &map, sizeof(map));
		written = sizeof(map);
	} else if (nr == VFIO_IOMMU_UNMAP_DMA) {
		memcpy(frame + GUARD, &gone, sizeof(gone));
		written = sizeof(gone);
	} else if (nr == VFIO_CHECK_EXTENSION || nr == VFIO_SET_IOMMU) {
		arg = roll(8) ? roll(12) : any(&dice);
	} else {
		*(uint32_t *)(frame + GUARD) = room;
		written = room < 4 ? 4 : room;
	}
	memset(frame + GUARD + written, PATTERN, GUARD);
	if (!roll(16))
		arg = bad_address();
	ret = ioctl(ctx, nr, arg);
	error = ret < 0 ? errno : 0;
	count(VFIO, error);
	for (size_t i = 0; i < ARRAY_SIZE(allowed); i++) {
		if (allowed[i] == error)
			goto known;
	}
	complain("VFIO ioctl %u: %s", nr & 0xff, strerrorname_np(error));
known:
	if (!all_are(frame, GUARD, PATTERN) || !all_are(frame + GUARD + written, GUARD, PATTERN))
		complain("VFIO ioctl %u wrote beside its structure", nr & 0xff);
}

/* The files of events: what is read is answered, right or wrong; some are closed. */
static void use_events(void)
{
	struct iommu_hwpt_page_response responses[8];
	struct iommu_hwpt_pgfault faults[8];
	int kind = roll(2) ? FAULT_FD : EVENT_FD;
	int *slot = &fds[roll(4) ? kind : (int)roll(FD_KINDS)][roll(FDS)];
	ssize_t bytes;

	if (!*slot)
		return;
	bytes = read(*slot, roll(8) ? faults : (void *)bad_address(),
		     roll(4) ? sizeof(faults) : roll(sizeof(faults)));
	count(EVENTS, bytes < 0 ? errno : 0);
	for (int i = 0; i < 8; i++) {
		responses[i].cookie = bytes > 0 && i < (int)(bytes / sizeof(faults[0])) ?
			faults[i].cookie : roll(4);
		responses[i].code = roll(8) ? roll(2) : any(&dice);
	}
	bytes = write(*slot, roll(8) ? responses : (void *)bad_address(), roll(65));
	count(EVENTS, bytes < 0 ? errno : 0);
	if (!roll(8)) {
		close(*slot);
		*slot = 0;
	}
}

/* The device behind a VT-d is attached to anything, and does DMA. */
static void use_real(void)
{
	static const struct command attaches = { .errors = { ENOSPC }, .sort = ATTACHES };
	struct vfio_device_detach_iommufd_pt detach = { .argsz = sizeof(detach) };
	uint32_t pasid = roll(8) ? roll(4) : any(&dice);
	int rc = 0;

	switch (roll(8)) {
	case 0 ... 1:
		rc = vtd_attach(&real, target());
		break;
	case 2 ... 3:
		rc = vtd_attach_pasid(&real, pasid, target());
		break;
	case 4:
		rc = vtd_detach_pasid(&real, pasid);
		break;
	case 5:
		rc = ioctl(real.dev, VFIO_DEVICE_DETACH_IOMMUFD_PT, &detach) ? -errno : 0;
		break;
	default:
		pdma_start(&real, (roll(2) ? PDMA_READ : PDMA_WRITE) | (roll(2) ? PDMA_ATS : 0),
			   roll(2) ? NO_PASID : roll(4), some_iova() & ~7ULL, SENTINEL);
		pdma_status(&real);
	}
	count(REAL, -rc);
	if (!may_answer(&attaches, -rc))
		complain("VT-d device: %s", strerrorname_np(-rc));
}

static void one(void)
{
	static int total;
	int n;

	if (!total) {
		for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
			total += commands[i].weight;
	}
	calls++;
	if (real.bar && !roll(16)) {
		use_real();
		return;
	}
	n = roll(total + 60);
	if (n < 15) {
		call_unknown();
	} else if (n < 35) {
		call_vfio();
	} else if (n < 60) {
		use_events();
	} else {
		const struct command *command = commands;

		for (n -= 60; n >= command->weight; command++)
			n -= command->weight;
		call(command);
	}
}

FIXTURE(fuzz)
{
	struct before before;
};

/*
 * Memory at a fixed place in a reservation, with nothing around it: a mapping
 * that is too long must not lead to what the test itself needs.
 */
static void *fenced(uint8_t *at, unsigned long pages, int fd)
{
	return mmap(at, pages * PG, PROT_READ | PROT_WRITE,
		    MAP_FIXED | MAP_POPULATE | (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED),
		    fd, 0);
}

#define WIDE (1UL << 44)

FIXTURE_SETUP(fuzz)
{
	uint8_t *fence;

	note(&self->before);
	if (access("/dev/iommu", R_OK | W_OK))
		SKIP(return, "no /dev/iommu: %s", strerror(errno));
	ASSERT_TRUE(may_not_lock());
	memory_fd = memfd_create("fuzz", MFD_CLOEXEC);
	ASSERT_EQ(0, ftruncate(memory_fd, PAGES * PG));
	fence = mmap(NULL, 4 * WIDE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ASSERT_NE(MAP_FAILED, fence);
	frame = fenced(fence + PG, FRAME_PAGES, -1);
	answers = fenced(fence + 64 * PG, 3, -1);
	read_only = fenced(fence + WIDE - PG, 2, -1);
	memory = fenced(fence + 2 * WIDE, PAGES, memory_fd);
	ASSERT_NE(MAP_FAILED, memory);
	read_only += PG;
	ASSERT_EQ(0, mprotect(read_only, PG, PROT_READ));
	/* The context is 900, so that it is never another's number. */
	ctx = 900;
}

FIXTURE_TEARDOWN(fuzz)
{
}

static void print_counts(struct __test_metadata *_metadata)
{
	for (int row = 0; row < ROWS; row++) {
		char line[512];
		int length = snprintf(line, sizeof(line), "%-24s %8lu",
				      row < UNKNOWN ? commands[row].name :
				      more_names[row - UNKNOWN], counts[row][0]);

		for (int error = 1; error < ERRORS; error++) {
			if (counts[row][error])
				length += snprintf(line + length, sizeof(line) - length,
						   ", %s %lu", strerrorname_np(error) ?: "?",
						   counts[row][error]);
		}
		TH_LOG("%s", line);
	}
}

static void open_context(struct __test_metadata *_metadata)
{
	int fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);

	ASSERT_LE(0, fd);
	ASSERT_EQ(ctx, dup3(fd, ctx, O_CLOEXEC));
	close(fd);
	memset(ids, 0, sizeof(ids));
	memset(fds, 0, sizeof(fds));
}

/* Some of each, so that ids mean something from the start. Not all need succeed. */
static void furnish(void)
{
	struct iommu_hwpt_selftest data = { .iotlb = 1 };
	struct iommu_ioas_allow_iovas allow = { .size = sizeof(allow), .num_iovas = 1 };
	struct iommu_iova_range range = { IOVA, MOCK_APERTURE_LAST };

	allow.allowed_iovas = (uintptr_t)&range;
	for (int i = 0; i < 3; i++) {
		uint32_t ioas = 0, stdev, idev = 0, hwpt, id = 0, viommu = 0, fd, fault = 0;
		__u64 iova = IOVA;
		int buffer;

		_test_ioctl_ioas_alloc(ctx, &ioas);
		remember(IOAS, ioas);
		allow.ioas_id = ioas;
		ioctl(ctx, IOMMU_IOAS_ALLOW_IOVAS, &allow);
		_test_ioctl_ioas_map_file(ctx, ioas, memory_fd, 0, 4 * PG, &iova,
					  IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE |
					  IOMMU_IOAS_MAP_WRITEABLE);
		if (_test_ioctl_fault_alloc(ctx, &fault, &fd))
			continue;
		remember(FAULT, fault);
		remember_fd(FAULT_FD, fd);
		if (!_test_cmd_create_access(ctx, ioas, &fd,
					     MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES))
			remember_fd(ACCESS_FD, fd);
		if (!_test_cmd_get_dmabuf(ctx, 4 * PG, &buffer) && buffer > 2)
			remember_fd(DMABUF_FD, buffer);
		if (_test_cmd_mock_domain_flags(ctx, ioas, i ? MOCK_FLAGS_DEVICE_PASID : 0, &stdev,
						&hwpt, &idev))
			continue;
		remember(STDEV, stdev);
		remember(IDEV, idev);
		if (!_test_cmd_hwpt_alloc(ctx, idev, ioas, 0,
					  i ? IOMMU_HWPT_ALLOC_PASID :
					  IOMMU_HWPT_ALLOC_DIRTY_TRACKING, &id,
					  IOMMU_HWPT_DATA_NONE, NULL, 0)) {
			remember(i ? HWPT : TRACKED, id);
			_test_cmd_mock_domain_replace(ctx, stdev, id, NULL);
		}
		if (_test_cmd_hwpt_alloc(ctx, idev, ioas, 0, IOMMU_HWPT_ALLOC_NEST_PARENT, &hwpt,
					 IOMMU_HWPT_DATA_NONE, NULL, 0) ||
		    _test_cmd_viommu_alloc(ctx, idev, hwpt, 0, IOMMU_VIOMMU_TYPE_SELFTEST, NULL, 0,
					   &viommu))
			continue;
		remember(PARENT, hwpt);
		remember(VIOMMU, viommu);
		if (!_test_cmd_vdevice_alloc(ctx, viommu, idev, i + 1, &id))
			remember(VDEVICE, id);
		if (!_test_cmd_veventq_alloc(ctx, viommu, IOMMU_VEVENTQ_TYPE_SELFTEST, 4, &id,
					     &fd)) {
			remember(VEVENTQ, id);
			remember_fd(EVENT_FD, fd);
		}
		if (_test_cmd_hwpt_alloc(ctx, idev, viommu, fault, IOMMU_HWPT_FAULT_ID_VALID, &id,
					 IOMMU_HWPT_DATA_SELFTEST, &data, sizeof(data)))
			continue;
		remember(NESTED, id);
		if (i != 1)
			_test_cmd_mock_domain_replace(ctx, stdev, id, NULL);
	}
}

/* The same of the device behind a VT-d, where there is one. */
static const char *furnish_real(void)
{
	uint32_t parent, viommu, id;
	struct iommu_vtd_pasid_entry pe = vtd_pe(IOVA, 0);
	int fd;

	vtd_none(&real);
	if (!getenv("VTD_DEVICE"))
		return NULL;
	real.iommufd = ctx;
	if (!vtd_find(&real, PDMA_ID))
		return "no device";
	if (vtd_bind(&real) || vtd_map_bar(&real))
		return real.why;
	for (int i = 0; i < 4; i++)
		remember(IDEV, real.dev_id);
	for (int i = 0; i < 4; i++) {
		if (vtd_alloc_hwpt(&real, ids[IOAS][roll(IDS)], IOMMU_HWPT_ALLOC_PASID |
				   IOMMU_HWPT_ALLOC_NEST_PARENT, NULL, 0, &parent) ||
		    vtd_alloc_viommu(&real, real.dev_id, parent, &viommu))
			continue;
		remember(PARENT, parent);
		remember(VIOMMU, viommu);
		if (!vtd_alloc_vdev(&real, viommu, real.dev_id, roll(6), &id))
			remember(VDEVICE, id);
		fd = vtd_alloc_faults(&real, viommu, 4, &id);
		if (fd >= 0) {
			remember(VEVENTQ, id);
			remember_fd(EVENT_FD, fd);
		}
		if (!vtd_alloc_nested_pe(&real, viommu, &pe, &id))
			remember(NESTED, id);
	}
	return NULL;
}

static void close_context(void)
{
	struct iommu_test_cmd cmd = { .memory_limit = { .limit = 65536 } };
	bool first = roll(2);

	if (real.bar)
		munmap(real.bar, real.bar_size);
	real.bar = NULL;
	test_op(ctx, &cmd, IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT, 0);
	if (first)
		close(ctx);
	/* Also those that no table knows any more. */
	syscall(SYS_close_range, memory_fd + 1, ctx - 1, 0);
	if (!first)
		close(ctx);
}

TEST_F_TIMEOUT(fuzz, ioctls, 36000)
{
	uint64_t wanted = setting("FUZZ_COUNT", 300000), seed = some_seed("FUZZ_SEED");
	uint64_t context = setting("FUZZ_FIRST", 0);
	double start = seconds();

	TH_LOG("%llu calls, FUZZ_SEED=%llu", (unsigned long long)wanted, (unsigned long long)seed);
	for (; calls < wanted && !wrong[0]; context++) {
		const char *left;

		seed_dice(&dice, seed, context);
		open_context(_metadata);
		files_only = !roll(8);
		furnish();
		left = furnish_real();
		ASSERT_EQ(NULL, left)
			TH_LOG("%s", left);
		for (int i = 0; i < CALLS && !wrong[0]; i++)
			one();
		close_context();
		left = left_behind(&self->before, memory, PAGES * PG);
		if (left)
			complain("left %s", left);
		if (!(calls % 500000))
			TH_LOG("%llu calls", (unsigned long long)calls);
	}
	print_counts(_metadata);
	TH_LOG("%llu calls in %.0f s", (unsigned long long)calls, seconds() - start);
	ASSERT_EQ(0, wrong[0])
		TH_LOG("in context %llu of seed %llu, before call %llu: %s",
		       (unsigned long long)context - 1, (unsigned long long)seed,
		       (unsigned long long)calls, wrong);
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		unsigned long least = commands[i].never ? 0 : commands[i].weight * wanted / 1000000;

		EXPECT_LE(least, counts[i][0])
			TH_LOG("%s succeeded too rarely to say anything", commands[i].name);
	}
	EXPECT_EQ(0, kmemleak_lines());
}

TEST_HARNESS_MAIN
