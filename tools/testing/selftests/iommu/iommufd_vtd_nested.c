// SPDX-License-Identifier: GPL-2.0-only
/*
 * Nested translation on VT-d, with real DMA: VFIO, /dev/iommu, stage-1 tables
 * in this program's memory, and a device that reads and writes through both
 * stages. VTD_DEVICE=bdf names the device; by default it is the first free one that
 * can be told to do DMA (vtd_engine.h; --list shows them). For others only the checks
 * that need no DMA run.
 */
#include <poll.h>
#include <pthread.h>

#include "kselftest_harness.h"
#include "vtd_engine.h"

#define IOVA	0x200000ULL
#define A	(DATA_PAGE + 10)
#define B	(DATA_PAGE + 20)

FIXTURE(nested)
{
	struct vtd v;
	uint64_t root;
	uint32_t hwpt;
};

FIXTURE_SETUP(nested)
{
	struct vtd *v = &self->v;

	ASSERT_SET_UP(return, vtd_setup(v, 0), v);
	self->root = vtd_new_root(v);
	vtd_set(v, self->root, IOVA, gpa_of(A), FS_LEAF);
	ASSERT_EQ(0, vtd_alloc_nested(v, v->parent, self->root, 48, &self->hwpt));
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
}

FIXTURE_TEARDOWN(nested)
{
	vtd_end(&self->v);
}

TEST_F(nested, hw_info)
{
	EXPECT_EQ(ECAP_NEST | ECAP_SLTS | ECAP_FLTS,
		  self->v.hw.ecap_reg & (ECAP_NEST | ECAP_SLTS | ECAP_FLTS));
	/* Dirty tracking is offered as the hardware has it. */
	EXPECT_EQ(!!(self->v.hw.ecap_reg & ECAP_SLADS),
		  !!(self->v.hw_caps & IOMMU_HW_CAP_DIRTY_TRACKING));
}

TEST_F(nested, both_stages)
{
	struct vtd *v = &self->v;
	uint64_t *a = host_of(v, A);

	if (!v->engine)
		SKIP(return, "%s", v->why);
	EXPECT_EQ(TOKEN(A), dev_read(v, IOVA));
	dev_write(v, IOVA + 8, TOKEN(0x1234));
	EXPECT_EQ(TOKEN(0x1234), vtd_seen(v, a[1]));
	EXPECT_EQ(TOKEN(A), a[0]);
	/* The other neighbours in host memory are untouched. */
	EXPECT_EQ(0, *((uint64_t *)(v->mem + A * PG) + 1));
}

TEST_F(nested, stale_until_invalidated)
{
	struct vtd *v = &self->v;

	if (!v->engine)
		SKIP(return, "%s", v->why);
	ASSERT_EQ(TOKEN(A), dev_read(v, IOVA));
	vtd_set(v, self->root, IOVA, gpa_of(B), FS_LEAF);
	EXPECT_EQ(TOKEN(A), dev_read(v, IOVA));
	ASSERT_EQ(0, vtd_invalidate(v, self->hwpt, IOVA, 1));
	EXPECT_EQ(TOKEN(B), dev_read(v, IOVA));
}

TEST_F(nested, neighbour_stays)
{
	struct vtd *v = &self->v;

	if (!v->engine)
		SKIP(return, "%s", v->why);
	vtd_set(v, self->root, IOVA + PG, gpa_of(A + 1), FS_LEAF);
	ASSERT_EQ(TOKEN(A), dev_read(v, IOVA));
	ASSERT_EQ(TOKEN(A + 1), dev_read(v, IOVA + PG));
	vtd_set(v, self->root, IOVA, gpa_of(B), FS_LEAF);
	vtd_set(v, self->root, IOVA + PG, gpa_of(B + 1), FS_LEAF);
	ASSERT_EQ(0, vtd_invalidate(v, self->hwpt, IOVA + PG, 1));
	EXPECT_EQ(TOKEN(A), dev_read(v, IOVA));
	EXPECT_EQ(TOKEN(B + 1), dev_read(v, IOVA + PG));
	ASSERT_EQ(0, vtd_invalidate(v, self->hwpt, IOVA, 1));
	EXPECT_EQ(TOKEN(B), dev_read(v, IOVA));
}

TEST_F(nested, invalidate_everything)
{
	struct vtd *v = &self->v;

	if (!v->engine)
		SKIP(return, "%s", v->why);
	ASSERT_EQ(TOKEN(A), dev_read(v, IOVA));
	vtd_set(v, self->root, IOVA, gpa_of(B), FS_LEAF);
	ASSERT_EQ(0, vtd_invalidate(v, self->hwpt, 0, UINT64_MAX));
	EXPECT_EQ(TOKEN(B), dev_read(v, IOVA));
}

/* Ranges that one descriptor covers with an ever larger address mask. */
TEST_F(nested, invalidate_wide)
{
	struct vtd *v = &self->v;
	unsigned int bits;

	if (!v->engine)
		SKIP(return, "%s", v->why);
	for (bits = 1; bits <= 30; bits++) {
		unsigned int old = bits & 1 ? A : B, new = bits & 1 ? B : A;

		vtd_set(v, self->root, IOVA, gpa_of(old), FS_LEAF);
		ASSERT_EQ(0, vtd_invalidate(v, self->hwpt, 0, UINT64_MAX));
		ASSERT_EQ(TOKEN(old), dev_read(v, IOVA));
		vtd_set(v, self->root, IOVA, gpa_of(new), FS_LEAF);
		ASSERT_EQ(0, vtd_invalidate(v, self->hwpt, IOVA & ~((PG << bits) - 1),
					    1ULL << bits));
		EXPECT_EQ(TOKEN(new), dev_read(v, IOVA))
			TH_LOG("a range of 2^%u pages", bits);
	}
}

TEST_F(nested, many_entries_in_one_call)
{
	struct iommu_hwpt_vtd_s1_invalidate inv[32] = {};
	struct iommu_hwpt_invalidate cmd = {
		.size = sizeof(cmd),
		.hwpt_id = self->hwpt,
		.data_uptr = (uintptr_t)inv,
		.data_type = IOMMU_HWPT_INVALIDATE_DATA_VTD_S1,
		.entry_len = sizeof(inv[0]),
		.entry_num = 32,
	};
	struct vtd *v = &self->v;
	unsigned int i;

	if (!v->engine)
		SKIP(return, "%s", v->why);
	for (i = 0; i < 32; i++)
		vtd_set(v, self->root, IOVA + i * PG, gpa_of(A + i), FS_LEAF);
	for (i = 0; i < 32; i++)
		ASSERT_EQ(TOKEN(A + i), dev_read(v, IOVA + i * PG));
	for (i = 0; i < 32; i++) {
		vtd_set(v, self->root, IOVA + i * PG, gpa_of(A + 100 + i), FS_LEAF);
		inv[i].addr = IOVA + i * PG;
		inv[i].npages = 1;
	}
	ASSERT_EQ(0, ioctl(v->iommufd, IOMMU_HWPT_INVALIDATE, &cmd));
	EXPECT_EQ(32, cmd.entry_num);
	for (i = 0; i < 32; i++)
		EXPECT_EQ(TOKEN(A + 100 + i), dev_read(v, IOVA + i * PG));
}

/* The host moves a page: what the guest's tables say does not change. */
TEST_F(nested, page_moves_in_the_parent)
{
	struct vtd *v = &self->v;

	if (!v->engine)
		SKIP(return, "%s", v->why);
	ASSERT_EQ(TOKEN(A), dev_read(v, IOVA));
	ASSERT_EQ(0, vtd_unmap_gpa(v, v->ioas, gpa_of(A), PG));
	ASSERT_EQ(0, vtd_map_gpa(v, v->ioas, gpa_of(A), host_of(v, B), PG));
	EXPECT_EQ(TOKEN(B), dev_read(v, IOVA));
}

TEST_F(nested, parent_unmapped)
{
	struct vtd *v = &self->v;

	if (!v->engine)
		SKIP(return, "%s", v->why);
	ASSERT_EQ(TOKEN(A), dev_read(v, IOVA));
	ASSERT_EQ(0, vtd_unmap_gpa(v, v->ioas, gpa_of(A), PG));
	EXPECT_TRUE(refused(v, dev_read(v, IOVA)));
	dev_write(v, IOVA, 1);
	EXPECT_EQ(TOKEN(A), *(uint64_t *)host_of(v, A));
	/* The memory that held the tables too. */
	ASSERT_EQ(0, vtd_unmap_gpa(v, v->ioas, GPA_BASE, DATA_PAGE * PG));
	EXPECT_TRUE(refused(v, dev_read(v, IOVA)));
}

/* One table of stage 1 takes the place of another, which is more than leaves. */
TEST_F(nested, table_is_replaced)
{
	struct vtd *v = &self->v;
	uint64_t other;

	if (!v->engine)
		SKIP(return, "%s", v->why);
	ASSERT_EQ(TOKEN(A), dev_read(v, IOVA));
	other = vtd_new_table(v);
	*entry_of(v, other, (IOVA >> 12) & 511) = gpa_of(B) | FS_LEAF;
	*vtd_entry(v, self->root, 4, IOVA, 2) = other | FS_LEAF;
	ASSERT_EQ(0, vtd_invalidate(v, self->hwpt, IOVA, 1));
	EXPECT_EQ(TOKEN(B), dev_read(v, IOVA));
}

/*
 * The host frees a table with all that it mapped, and maps other memory there. Each of
 * these mappings has 4 KiB pages, as memory and address differ by one to three of them.
 */
TEST_F(nested, table_is_freed)
{
	static const struct {
		const char *what;
		uint64_t from;
	} how[] = {
		{ "a nested hwpt", IOVA },
		{ "its parent", GPA_BASE + (1ULL << 30) },
		{ "an IOAS", GPA_BASE + (1ULL << 30) },
	};
	const uint64_t gpa = GPA_BASE + (1ULL << 30);
	struct vtd *v = &self->v;
	unsigned int i;

	if (!v->engine)
		SKIP(return, "%s", v->why);
	vtd_set(v, self->root, IOVA, gpa, FS_LEAF);
	for (i = 0; i < ARRAY_SIZE(how); i++) {
		const uint32_t pt[] = { self->hwpt, v->parent, v->ioas };
		uint64_t stage = i ? gpa_of(STAGE_PAGE) : STAGE_IOVA;
		unsigned char *host = v->mem + (DATA_PAGE + 1) * PG;

		ASSERT_EQ(0, vtd_attach(v, pt[i]));
		ASSERT_EQ(0, vtd_map_gpa(v, v->ioas, gpa, host, MIB2));
		ASSERT_EQ(*(uint64_t *)host, dev_read_by(v, stage, how[i].from));
		ASSERT_EQ(0, vtd_unmap_gpa(v, v->ioas, gpa, MIB2));
		/* Who has the table now? */
		ASSERT_EQ(0, vtd_map_gpa(v, v->ioas, gpa + MIB2, host + PG, MIB2));
		ASSERT_EQ(0, vtd_map_gpa(v, v->ioas, gpa, host + 2 * PG, MIB2));
		EXPECT_EQ(*(uint64_t *)(host + 2 * PG), dev_read_by(v, stage, how[i].from))
			TH_LOG("by %s", how[i].what);
		ASSERT_EQ(0, vtd_unmap_gpa(v, v->ioas, gpa, 2 * MIB2));
	}
}

TEST_F(nested, accessed_and_dirty)
{
	struct vtd *v = &self->v;
	uint64_t *leaf = vtd_entry(v, self->root, 4, IOVA, 1);
	unsigned int level;

	if (!v->engine)
		SKIP(return, "%s", v->why);
	ASSERT_EQ(TOKEN(A), dev_read(v, IOVA));
	for (level = 1; level <= 4; level++)
		EXPECT_EQ(FS_A, *vtd_entry(v, self->root, 4, IOVA, level) & (FS_A | FS_D))
			TH_LOG("level %u after a read", level);
	/* Filled by a read: the write must still find the way to the tables. */
	dev_write(v, IOVA + 8, 1);
	EXPECT_EQ(FS_A | FS_D, *leaf & (FS_A | FS_D));
	/* Cleared and invalidated, as an operating system does it. */
	*leaf &= ~(FS_A | FS_D);
	ASSERT_EQ(0, vtd_invalidate(v, self->hwpt, IOVA, 1));
	dev_write(v, IOVA + 8, 2);
	EXPECT_EQ(FS_A | FS_D, *leaf & (FS_A | FS_D));
}

TEST_F(nested, gpa_is_no_iova)
{
	struct vtd *v = &self->v;

	if (!v->engine)
		SKIP(return, "%s", v->why);
	EXPECT_TRUE(refused(v, dev_read(v, gpa_of(A))));
	EXPECT_EQ(TOKEN(A), dev_read(v, IOVA));
}

TEST_F(nested, read_only_entry)
{
	struct vtd *v = &self->v;

	if (!v->engine)
		SKIP(return, "%s", v->why);
	vtd_set(v, self->root, IOVA, gpa_of(A), FS_P | FS_US);
	EXPECT_EQ(TOKEN(A), dev_read(v, IOVA));
	dev_write(v, IOVA, 1);
	EXPECT_EQ(TOKEN(A), *(uint64_t *)host_of(v, A));
	/* One level up it counts as well. */
	vtd_set(v, self->root, IOVA, gpa_of(A), FS_LEAF);
	*vtd_entry(v, self->root, 4, IOVA, 2) &= ~FS_RW;
	ASSERT_EQ(0, vtd_invalidate(v, self->hwpt, 0, UINT64_MAX));
	dev_write(v, IOVA, 1);
	EXPECT_EQ(TOKEN(A), *(uint64_t *)host_of(v, A));
}

/* Entries that hardware must refuse, each alone in an otherwise good walk. */
TEST_F(nested, bad_entries)
{
	static const struct {
		const char *what;
		uint64_t entry;
	} cases[] = {
		{ "not present", FS_RW | FS_US },
		{ "supervisor", FS_P | FS_RW },
		{ "reserved bit 51", FS_LEAF | 1ULL << 51 },
	};
	struct vtd *v = &self->v;
	unsigned int i;

	if (!v->engine)
		SKIP(return, "%s", v->why);
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		vtd_set(v, self->root, IOVA, gpa_of(A), cases[i].entry);
		ASSERT_EQ(0, vtd_invalidate(v, self->hwpt, IOVA, 1));
		EXPECT_TRUE(refused(v, dev_read(v, IOVA)))
			TH_LOG("%s", cases[i].what);
		vtd_set(v, self->root, IOVA, gpa_of(A), FS_LEAF);
		ASSERT_EQ(TOKEN(A), dev_read(v, IOVA));
	}
	/* Bit 48 is set and bits 63 to 49 are not: the same entries, if one looked. */
	EXPECT_TRUE(refused(v, dev_read(v, IOVA | 1ULL << 48)));
}

TEST_F(nested, outside_of_stage_2)
{
	struct vtd *v = &self->v;
	uint32_t hwpt;

	if (!v->engine)
		SKIP(return, "%s", v->why);
	/* A leaf that points behind the guest's memory. */
	vtd_set(v, self->root, IOVA, gpa_of(MEM_PAGES + 5), FS_LEAF);
	EXPECT_TRUE(refused(v, dev_read(v, IOVA)));
	/* A table there, and one more root there. */
	*vtd_entry(v, self->root, 4, IOVA + MIB2, 2) = gpa_of(MEM_PAGES + 6) | FS_LEAF;
	EXPECT_TRUE(refused(v, dev_read(v, IOVA + MIB2)));
	ASSERT_EQ(0, vtd_alloc_nested(v, v->parent, gpa_of(MEM_PAGES + 7), 48, &hwpt));
	ASSERT_EQ(0, vtd_attach(v, hwpt));
	EXPECT_TRUE(refused(v, dev_read(v, IOVA)));
	/* And a host address is no guest address: the root is no pointer of ours. */
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	vtd_set(v, self->root, IOVA, gpa_of(A), FS_LEAF);
	EXPECT_EQ(TOKEN(A), dev_read(v, IOVA));
}

TEST_F(nested, large_page_over_small_ones)
{
	struct vtd *v = &self->v;
	const uint64_t iova = 4 * MIB2;
	static const unsigned int pages[] = { 0, 1, 2, 3, 7, 255, 511 };
	unsigned int i;

	if (!v->engine)
		SKIP(return, "%s", v->why);
	*vtd_entry(v, self->root, 4, iova, 2) = gpa_of(DATA_PAGE) | FS_LEAF | FS_PS;
	for (i = 0; i < ARRAY_SIZE(pages); i++)
		EXPECT_EQ(TOKEN(DATA_PAGE + pages[i]), dev_read(v, iova + pages[i] * PG))
			TH_LOG("page %u", pages[i]);
	/*
	 * Named by its size. The hardware may have cached it in pieces, so one page of
	 * it names that page and, perhaps, more.
	 */
	*vtd_entry(v, self->root, 4, iova, 2) = gpa_of(DATA_PAGE + 512) | FS_LEAF | FS_PS;
	EXPECT_EQ(TOKEN(DATA_PAGE), dev_read(v, iova));
	ASSERT_EQ(0, vtd_invalidate(v, self->hwpt, iova + 3 * PG, 1));
	EXPECT_EQ(TOKEN(DATA_PAGE + 512 + 3), dev_read(v, iova + 3 * PG));
	ASSERT_EQ(0, vtd_invalidate(v, self->hwpt, iova, 512));
	for (i = 0; i < ARRAY_SIZE(pages); i++)
		EXPECT_EQ(TOKEN(DATA_PAGE + 512 + pages[i]), dev_read(v, iova + pages[i] * PG))
			TH_LOG("page %u", pages[i]);
}

TEST_F(nested, five_levels)
{
	struct vtd *v = &self->v;
	const uint64_t iova = 1ULL << 50 | IOVA;
	uint64_t root;
	uint32_t hwpt;
	int rc;

	root = vtd_new_table(v);
	rc = vtd_alloc_nested(v, v->parent, root, 57, &hwpt);
	if (!(v->hw.cap_reg & CAP_FL5LP)) {
		if (!rc)
			rc = vtd_attach(v, hwpt);
		EXPECT_EQ(-EINVAL, rc);
		SKIP(return, "the IOMMU has no 5-level first stage");
	}
	ASSERT_EQ(0, rc);
	if (!v->engine)
		SKIP(return, "%s", v->why);
	vtd_set_engine(v, root, 5);
	*vtd_entry(v, root, 5, iova, 1) = gpa_of(A) | FS_LEAF;
	ASSERT_EQ(0, vtd_attach(v, hwpt));
	EXPECT_EQ(TOKEN(A), dev_read(v, iova));
	EXPECT_TRUE(refused(v, dev_read(v, IOVA)));
}

/* AW of the PASID entry: the levels of stage 2 less two, or -1. */
static int stage_2_aw(struct vtd *v)
{
	uint64_t word[3];

	return vtd_pasid_entry(v, word) ? word[0] >> 2 & 7 : -1;
}

/* Stage 2 has the fewest levels that reach MGAW, and all of its addresses are of use. */
TEST_F(nested, levels_of_stage_2)
{
	struct vtd *v = &self->v;
	unsigned int sagaw = v->hw.cap_reg >> 8 & 0x1f, mgaw = (v->hw.cap_reg >> 16 & 0x3f) + 1;
	int aw, fewest = -1, most = -1;
	uint64_t end;

	for (aw = 1; aw <= 3; aw++) {
		if (!(sagaw >> aw & 1))
			continue;
		most = aw;
		if (fewest < 0 && 30 + 9 * aw >= (int)mgaw)
			fewest = aw;
	}
	if (fewest < 0)
		fewest = most;
	end = 1ULL << (30 + 9 * fewest < (int)mgaw ? 30 + 9 * fewest : (int)mgaw);
	if (stage_2_aw(v) < 0)
		SKIP(return, "no PASID entries in debugfs");
	EXPECT_EQ(fewest, stage_2_aw(v))
		TH_LOG("SAGAW %#x, MGAW %u", sagaw, mgaw);
	ASSERT_EQ(0, vtd_attach(v, v->parent));
	EXPECT_EQ(fewest, stage_2_aw(v));
	EXPECT_EQ(-EINVAL, vtd_map_gpa(v, v->ioas, end, host_of(v, B), PG));
	ASSERT_EQ(0, vtd_map_gpa(v, v->ioas, end - PG, host_of(v, B), PG));
	if (!v->engine)
		SKIP(return, "%s", v->why);
	EXPECT_EQ(TOKEN(B), dev_read_by(v, gpa_of(STAGE_PAGE), end - PG));
	ASSERT_EQ(0, vtd_unmap_gpa(v, v->ioas, end - PG, PG));
	EXPECT_TRUE(refused(v, dev_read_by(v, gpa_of(STAGE_PAGE), end - PG)));
}

TEST_F(nested, switching)
{
	struct vtd *v = &self->v;
	uint64_t other = vtd_new_root(v);
	uint32_t hwpt;
	int round;

	if (!v->engine)
		SKIP(return, "%s", v->why);
	vtd_set(v, other, IOVA, gpa_of(B), FS_LEAF);
	ASSERT_EQ(0, vtd_alloc_nested(v, v->parent, other, 48, &hwpt));
	for (round = 0; round < 3; round++) {
		EXPECT_EQ(TOKEN(A), dev_read(v, IOVA));
		ASSERT_EQ(0, vtd_attach(v, hwpt));
		EXPECT_EQ(TOKEN(B), dev_read(v, IOVA));
		/* The parent alone: a GPA is the address now. */
		ASSERT_EQ(0, vtd_attach(v, v->parent));
		EXPECT_EQ(TOKEN(A + 1), dev_read_by(v, gpa_of(STAGE_PAGE), gpa_of(A + 1)));
		EXPECT_TRUE(refused(v, dev_read_by(v, gpa_of(STAGE_PAGE), IOVA)));
		/* The IOAS: the kernel makes a table of its own. */
		ASSERT_EQ(0, vtd_attach(v, v->ioas));
		EXPECT_EQ(TOKEN(A + 2), dev_read_by(v, gpa_of(STAGE_PAGE), gpa_of(A + 2)));
		EXPECT_TRUE(refused(v, dev_read_by(v, gpa_of(STAGE_PAGE), IOVA)));
		ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	}
}

/* An invalidation reaches the hwpt it names, also when another is attached. */
TEST_F(nested, invalidate_unattached)
{
	struct vtd *v = &self->v;
	uint64_t other = vtd_new_root(v);
	uint32_t hwpt;

	ASSERT_EQ(0, vtd_alloc_nested(v, v->parent, other, 48, &hwpt));
	EXPECT_EQ(0, vtd_invalidate(v, hwpt, IOVA, 1));
	EXPECT_EQ(0, vtd_invalidate(v, hwpt, 0, UINT64_MAX));
	EXPECT_EQ(0, vtd_destroy(v, hwpt));
	EXPECT_EQ(-ENOENT, vtd_invalidate(v, hwpt, 0, UINT64_MAX));
}

TEST_F(nested, two_parents)
{
	struct vtd *v = &self->v;
	uint32_t ioas, parent, hwpt;
	uint64_t root;

	if (!v->engine)
		SKIP(return, "%s", v->why);
	ASSERT_EQ(0, vtd_alloc_ioas(v, &ioas));
	/* The same guest address, other memory behind it. */
	ASSERT_EQ(0, vtd_map_gpa(v, ioas, GPA_BASE, v->mem, DATA_PAGE * PG));
	ASSERT_EQ(0, vtd_map_gpa(v, ioas, gpa_of(A), host_of(v, B), PG));
	ASSERT_EQ(0, vtd_alloc_hwpt(v, ioas, IOMMU_HWPT_ALLOC_NEST_PARENT, NULL, 0, &parent));
	root = vtd_new_root(v);
	vtd_set(v, root, IOVA, gpa_of(A), FS_LEAF);
	ASSERT_EQ(0, vtd_alloc_nested(v, parent, root, 48, &hwpt));
	EXPECT_EQ(TOKEN(A), dev_read(v, IOVA));
	ASSERT_EQ(0, vtd_attach(v, hwpt));
	EXPECT_EQ(TOKEN(B), dev_read(v, IOVA));
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	EXPECT_EQ(TOKEN(A), dev_read(v, IOVA));
}

TEST_F_TIMEOUT(nested, many_on_one_parent, SLOW)
{
	enum { MANY = 40 };
	struct vtd *v = &self->v;
	uint32_t hwpt[MANY];
	unsigned int i;

	if (!v->engine)
		SKIP(return, "%s", v->why);
	for (i = 0; i < MANY; i++) {
		uint64_t root = vtd_new_root(v);

		vtd_set(v, root, IOVA, gpa_of(DATA_PAGE + i), FS_LEAF);
		ASSERT_EQ(0, vtd_alloc_nested(v, v->parent, root, 48, &hwpt[i]));
	}
	for (i = 0; i < MANY; i++) {
		ASSERT_EQ(0, vtd_attach(v, hwpt[i]));
		EXPECT_EQ(TOKEN(DATA_PAGE + i), dev_read(v, IOVA));
	}
	/* In use: the last one and the parent. */
	EXPECT_EQ(-EBUSY, vtd_destroy(v, hwpt[MANY - 1]));
	EXPECT_EQ(-EBUSY, vtd_destroy(v, v->parent));
	for (i = 0; i + 1 < MANY; i++)
		EXPECT_EQ(0, vtd_destroy(v, hwpt[i]));
	EXPECT_EQ(TOKEN(DATA_PAGE + MANY - 1), dev_read(v, IOVA));
}

TEST_F(nested, invalid_stage_1)
{
	struct vtd *v = &self->v;
	struct iommu_hwpt_vtd_s1 s1 = { .pgtbl_addr = self->root, .addr_width = 48 };
	struct iommu_hwpt_alloc cmd;
	uint32_t plain, hwpt;
	unsigned int i;
	static const struct {
		uint64_t flags;
		uint32_t width;
	} unsupported[] = { { 0, 0 }, { 0, 39 }, { 0, 47 }, { 0, 49 }, { 0, 64 } };
	/* No table begins within a page, or where stage 2 has no addresses. */
	static const uint64_t beyond[] = { 1, 1 << 4, 1 << 7, 0xfff, 1ULL << 57, 1ULL << 63 };

	/* No nest parent, an IOAS, a nested one: none can be the parent. */
	ASSERT_EQ(0, vtd_alloc_hwpt(v, v->ioas, 0, NULL, 0, &plain));
	EXPECT_EQ(-EINVAL, vtd_alloc_hwpt(v, plain, 0, &s1, 0, &hwpt));
	EXPECT_NE(0, vtd_alloc_hwpt(v, v->ioas, 0, &s1, 0, &hwpt));
	EXPECT_EQ(-EINVAL, vtd_alloc_hwpt(v, self->hwpt, 0, &s1, 0, &hwpt));
	/* Dirty tracking and nesting belong to the parent. */
	EXPECT_NE(0, vtd_alloc_hwpt(v, v->parent, IOMMU_HWPT_ALLOC_NEST_PARENT, &s1, 0, &hwpt));
	EXPECT_NE(0, vtd_alloc_hwpt(v, v->parent, IOMMU_HWPT_ALLOC_DIRTY_TRACKING, &s1, 0, &hwpt));

	memset(&cmd, 0, sizeof(cmd));
	cmd.size = sizeof(cmd);
	cmd.dev_id = v->dev_id;
	cmd.pt_id = v->parent;
	cmd.data_type = IOMMU_HWPT_DATA_VTD_S1;
	cmd.data_uptr = (uintptr_t)&s1;
	cmd.data_len = sizeof(s1) - 8;
	EXPECT_EQ(-1, ioctl(v->iommufd, IOMMU_HWPT_ALLOC, &cmd));
	EXPECT_EQ(EINVAL, errno);
	cmd.data_len = sizeof(s1);
	cmd.data_uptr = 8;
	EXPECT_EQ(-1, ioctl(v->iommufd, IOMMU_HWPT_ALLOC, &cmd));
	EXPECT_EQ(EFAULT, errno);
	cmd.data_uptr = (uintptr_t)&s1;
	cmd.data_type = IOMMU_HWPT_DATA_ARM_SMMUV3;
	EXPECT_EQ(-1, ioctl(v->iommufd, IOMMU_HWPT_ALLOC, &cmd));
	EXPECT_EQ(EOPNOTSUPP, errno);

	/* These are refused at the latest when a device is to use them. */
	for (i = 0; i < ARRAY_SIZE(unsupported); i++) {
		int rc;

		s1.addr_width = unsupported[i].width;
		rc = vtd_alloc_hwpt(v, v->parent, 0, &s1, 0, &hwpt);
		if (!rc)
			rc = vtd_attach(v, hwpt);
		EXPECT_EQ(-EINVAL, rc)
			TH_LOG("address width %u", unsupported[i].width);
		ASSERT_EQ(0, vtd_reattach(v, self->hwpt));
	}
	s1.addr_width = 48;
	if (!(v->hw.ecap_reg & ECAP_SRS)) {
		int rc;

		s1.flags = IOMMU_VTD_S1_SRE;
		rc = vtd_alloc_hwpt(v, v->parent, 0, &s1, 0, &hwpt);
		if (!rc)
			rc = vtd_attach(v, hwpt);
		EXPECT_EQ(-EINVAL, rc);
		ASSERT_EQ(0, vtd_reattach(v, self->hwpt));
	}
	if (!(v->hw.ecap_reg & ECAP_EAFS)) {
		int rc;

		s1.flags = IOMMU_VTD_S1_EAFE;
		rc = vtd_alloc_hwpt(v, v->parent, 0, &s1, 0, &hwpt);
		if (!rc)
			rc = vtd_attach(v, hwpt);
		EXPECT_EQ(-EINVAL, rc);
		ASSERT_EQ(0, vtd_reattach(v, self->hwpt));
	}
	s1.flags = 0;
	for (i = 0; i < ARRAY_SIZE(beyond); i++) {
		int rc;

		s1.pgtbl_addr = self->root | beyond[i];
		rc = vtd_alloc_hwpt(v, v->parent, 0, &s1, 0, &hwpt);
		if (!rc)
			rc = vtd_attach(v, hwpt);
		EXPECT_EQ(-EINVAL, rc)
			TH_LOG("table at %#llx", s1.pgtbl_addr);
		ASSERT_EQ(0, vtd_reattach(v, self->hwpt));
	}
	if (v->engine)
		EXPECT_EQ(TOKEN(A), dev_read(v, IOVA));
}

/* What comes of each combination of flags, data types and lengths on a parent. */
static int nested_errno(uint32_t flags, uint32_t type, uint32_t len)
{
	if (!type != !len)
		return -EINVAL;
	if (flags & ~(IOMMU_HWPT_FAULT_ID_VALID | IOMMU_HWPT_ALLOC_PASID) ||
	    type != IOMMU_HWPT_DATA_VTD_S1)
		return -EOPNOTSUPP;
	return len == sizeof(struct iommu_hwpt_vtd_s1) ? 0 : -EINVAL;
}

TEST_F(nested, flags_types_and_lengths)
{
	static const uint32_t lengths[] = { 0, 1, 8, 16, 23, 24, 25, 32, 40 };
	static const uint32_t types[] = {
		IOMMU_HWPT_DATA_NONE, IOMMU_HWPT_DATA_VTD_S1, IOMMU_HWPT_DATA_ARM_SMMUV3, 3, 77,
	};
	struct iommu_fault_alloc fault = { .size = sizeof(fault) };
	struct vtd *v = &self->v;
	union {
		struct iommu_hwpt_vtd_s1 s1;
		char room[40];
	} data = { .s1 = { .pgtbl_addr = self->root, .addr_width = 48 } };
	unsigned int flags, t, l;

	ASSERT_EQ(0, ioctl(v->iommufd, IOMMU_FAULT_QUEUE_ALLOC, &fault));
	/* All flags that there are, and one more. */
	for (flags = 0; flags < 1 << 5; flags++) {
		for (t = 0; t < ARRAY_SIZE(types); t++) {
			for (l = 0; l < ARRAY_SIZE(lengths); l++) {
				int want = nested_errno(flags, types[t], lengths[l]), rc;
				struct iommu_hwpt_alloc cmd = {
					.size = sizeof(cmd),
					.flags = flags,
					.dev_id = v->dev_id,
					.pt_id = v->parent,
					.data_type = types[t],
					.data_len = lengths[l],
					.data_uptr = (uintptr_t)&data,
					.fault_id = fault.out_fault_id,
				};

				rc = ioctl(v->iommufd, IOMMU_HWPT_ALLOC, &cmd) ? -errno : 0;
				EXPECT_EQ(want, rc)
					TH_LOG("flags %#x, type %u, length %u", flags, types[t],
					       lengths[l]);
				if (!rc)
					EXPECT_EQ(0, vtd_destroy(v, cmd.out_hwpt_id));
				/* A table of the kernel's takes no data. */
				if (!types[t] || !lengths[l])
					continue;
				cmd.pt_id = v->ioas;
				EXPECT_EQ(-1, ioctl(v->iommufd, IOMMU_HWPT_ALLOC, &cmd));
				EXPECT_EQ(EOPNOTSUPP, errno);
			}
		}
	}
	close(fault.out_fault_fd);
}

/* The hardware knows a stage-1 table on one parent in one mode only. */
TEST_F(nested, one_mode_for_a_table)
{
	struct vtd *v = &self->v;
	struct iommu_hwpt_vtd_s1 s1 = { .pgtbl_addr = self->root, .addr_width = 48 };
	uint64_t unused = vtd_new_table(v);
	uint32_t same, other, parent;

	ASSERT_EQ(0, vtd_alloc_hwpt(v, v->parent, 0, &s1, 0, &same));
	s1.flags = IOMMU_VTD_S1_EAFE;
	EXPECT_EQ(-EINVAL, vtd_alloc_hwpt(v, v->parent, 0, &s1, 0, &other));
	s1.flags = 0;
	s1.addr_width = 57;
	EXPECT_EQ(-EINVAL, vtd_alloc_hwpt(v, v->parent, 0, &s1, 0, &other));
	/* Another parent's is another one; nor is that of another address. */
	ASSERT_EQ(0, vtd_alloc_hwpt(v, v->ioas, IOMMU_HWPT_ALLOC_NEST_PARENT, NULL, 0, &parent));
	EXPECT_EQ(0, vtd_alloc_hwpt(v, parent, 0, &s1, 0, &other));
	s1.pgtbl_addr = unused;
	EXPECT_EQ(0, vtd_alloc_hwpt(v, v->parent, 0, &s1, 0, &other));
	/* Once all are gone that have it in the other mode. */
	s1.pgtbl_addr = self->root;
	ASSERT_EQ(0, vtd_attach(v, same));
	ASSERT_EQ(0, vtd_destroy(v, self->hwpt));
	EXPECT_EQ(-EINVAL, vtd_alloc_hwpt(v, v->parent, 0, &s1, 0, &other));
	ASSERT_EQ(0, vtd_attach(v, v->ioas));
	ASSERT_EQ(0, vtd_destroy(v, same));
	EXPECT_EQ(0, vtd_alloc_hwpt(v, v->parent, 0, &s1, 0, &other));
}

/* An attach that fails leaves the device where it was, DMA included. */
TEST_F(nested, failed_attach_changes_nothing)
{
	struct vtd *v = &self->v;
	uint32_t hwpt;
	int rc;

	if (!v->engine)
		SKIP(return, "%s", v->why);
	rc = vtd_alloc_nested(v, v->parent, self->root, 39, &hwpt);
	if (!rc)
		rc = vtd_attach(v, hwpt);
	ASSERT_EQ(-EINVAL, rc);
	EXPECT_EQ(TOKEN(A), dev_read(v, IOVA));
}

TEST_F(nested, invalid_invalidations)
{
	struct iommu_hwpt_vtd_s1_invalidate inv[2] = {};
	struct iommu_hwpt_invalidate cmd = {
		.size = sizeof(cmd),
		.hwpt_id = self->hwpt,
		.data_uptr = (uintptr_t)inv,
		.data_type = IOMMU_HWPT_INVALIDATE_DATA_VTD_S1,
		.entry_len = sizeof(inv[0]),
	};
	static const struct {
		struct iommu_hwpt_vtd_s1_invalidate inv;
		int error;
	} bad[] = {
		{ { .addr = IOVA + 8, .npages = 1 }, EINVAL },
		{ { .addr = IOVA, .npages = UINT64_MAX }, EINVAL },
		/* Ends that wrap: before the address, and at its page. */
		{ { .addr = IOVA, .npages = 1ULL << 52 }, EINVAL },
		{ { .addr = IOVA, .npages = (1ULL << 52) + 1 }, EINVAL },
		{ { .addr = -PG, .npages = 2 }, EINVAL },
		{ { .addr = IOVA, .npages = 1, .flags = 2 }, EOPNOTSUPP },
		{ { .addr = IOVA, .npages = 1, .__reserved = 1 }, EOPNOTSUPP },
	};
	struct vtd *v = &self->v;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		/* A good one before it is done and counted. */
		inv[0].addr = IOVA;
		inv[0].npages = 1;
		inv[1] = bad[i].inv;
		cmd.entry_num = 2;
		EXPECT_EQ(-1, ioctl(v->iommufd, IOMMU_HWPT_INVALIDATE, &cmd));
		EXPECT_EQ(bad[i].error, errno);
		EXPECT_EQ(1, cmd.entry_num);
	}
	cmd.entry_num = 1;
	cmd.data_type = 77;
	EXPECT_EQ(-1, ioctl(v->iommufd, IOMMU_HWPT_INVALIDATE, &cmd));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(0, cmd.entry_num);
	cmd.data_type = IOMMU_HWPT_INVALIDATE_DATA_VTD_S1;
	cmd.entry_num = 1;
	cmd.entry_len = 8;
	EXPECT_EQ(-1, ioctl(v->iommufd, IOMMU_HWPT_INVALIDATE, &cmd));
	EXPECT_EQ(EINVAL, errno);
	/* The parent has no cache of a guest's tables. */
	EXPECT_NE(0, vtd_invalidate(v, v->parent, IOVA, 1));
}

/*
 * An error of the hardware reaches user space, and what stands before and after a
 * descriptor that it refuses is done all the same.
 */
TEST_F(nested, refused_by_hardware)
{
	const char *where = getenv("VTD_REFUSES");
	struct iommu_hwpt_vtd_s1_invalidate inv[3] = {};
	struct iommu_hwpt_invalidate cmd = {
		.size = sizeof(cmd),
		.hwpt_id = self->hwpt,
		.data_uptr = (uintptr_t)inv,
		.data_type = IOMMU_HWPT_INVALIDATE_DATA_VTD_S1,
		.entry_len = sizeof(inv[0]),
	};
	struct vtd *v = &self->v;
	uint64_t refused;
	unsigned int bad;

	if (!where)
		SKIP(return, "no invalidation is known that this hardware refuses");
	refused = strtoull(where, NULL, 0);
	/*
	 * The kernel may sort a batch by address, so the refused descriptor is
	 * first, in the middle and last in the array and by its address.
	 */
	for (bad = 0; bad < ARRAY_SIZE(inv); bad++) {
		unsigned int i;

		for (i = 0; i < ARRAY_SIZE(inv); i++) {
			inv[i].addr = refused + ((int)i - (int)bad) * 2 * MIB2;
			inv[i].npages = 1;
		}
		for (i = 0; i < ARRAY_SIZE(inv); i++)
			vtd_set(v, self->root, inv[i].addr, gpa_of(A + i), FS_LEAF);
		ASSERT_EQ(0, vtd_invalidate(v, self->hwpt, 0, UINT64_MAX));
		for (i = 0; v->engine && i < ARRAY_SIZE(inv); i++)
			ASSERT_EQ(TOKEN(A + i), dev_read(v, inv[i].addr));
		for (i = 0; i < ARRAY_SIZE(inv); i++)
			vtd_set(v, self->root, inv[i].addr, gpa_of(B + i), FS_LEAF);
		cmd.entry_num = ARRAY_SIZE(inv);
		EXPECT_EQ(-1, ioctl(v->iommufd, IOMMU_HWPT_INVALIDATE, &cmd));
		EXPECT_EQ(EINVAL, errno);
		EXPECT_EQ(0, cmd.entry_num);
		/* A wait with status and fence has its place, or the last proves too little. */
		if (!access(QUEUE, R_OK))
			EXPECT_TRUE(queue_has(0x200000065));
		/* The refused one may be stale or not; its neighbours are not. */
		for (i = 0; v->engine && i < ARRAY_SIZE(inv); i++)
			if (i != bad)
				EXPECT_EQ(TOKEN(B + i), dev_read(v, inv[i].addr))
					TH_LOG("entry %u, the refused one is %u", i, bad);
	}
	/* And the queue works. */
	ASSERT_EQ(0, vtd_invalidate(v, self->hwpt, IOVA, 1));
}

/* Each stage's failure is reported with the reason of that stage. */
TEST_F_TIMEOUT(nested, fault_reasons, SLOW)
{
	struct vtd *v = &self->v;
	int log, reason, tries, i;
	static const struct {
		const char *what;
		uint64_t leaf;
		uint64_t iova;
		bool write;
		int reason;
	} cases[] = {
		{ "stage-1 entry not present", 0, IOVA, false, 0x71 },
		{ "stage-1 entry read-only", GPA_BASE + A * PG + FS_P + FS_US, IOVA, true, 0x85 },
		{ "stage-1 entry supervisor", GPA_BASE + A * PG + FS_P + FS_RW, IOVA, false, 0x81 },
		{ "stage 2 has nothing there", GPA_BASE + (MEM_PAGES + 5) * PG + FS_LEAF, IOVA,
		  false, 0x79 },
		{ "not canonical", GPA_BASE + A * PG + FS_LEAF, IOVA | 1ULL << 48, false, 0x80 },
	};

	if (!v->engine)
		SKIP(return, "%s", v->why);
	log = log_open();
	if (log < 0)
		SKIP(return, "no /dev/kmsg");
	for (i = 0; i < (int)ARRAY_SIZE(cases); i++) {
		*vtd_entry(v, self->root, 4, IOVA, 1) = cases[i].leaf;
		ASSERT_EQ(0, vtd_invalidate(v, self->hwpt, 0, UINT64_MAX));
		v->engine->dma(v, cases[i].write, cases[i].iova);
		reason = log_fault(log);
		/* The kernel reports no more than some in 5 seconds. */
		for (tries = 0; reason < 0 && tries < 3; tries++) {
			usleep(5500000);
			v->engine->dma(v, cases[i].write, cases[i].iova);
			reason = log_fault(log);
		}
		EXPECT_EQ(cases[i].reason, reason)
			TH_LOG("%s", cases[i].what);
	}
	close(log);
}

TEST_F(nested, fault_queue)
{
	struct vtd *v = &self->v;
	struct iommu_hwpt_vtd_s1 s1 = { .pgtbl_addr = self->root, .addr_width = 48 };
	struct iommu_fault_alloc cmd = { .size = sizeof(cmd) };
	uint32_t hwpt;
	int rc;

	ASSERT_EQ(0, ioctl(v->iommufd, IOMMU_FAULT_QUEUE_ALLOC, &cmd));
	rc = vtd_alloc_hwpt(v, v->parent, IOMMU_HWPT_FAULT_ID_VALID, &s1, cmd.out_fault_id, &hwpt);
	if (rc == -EOPNOTSUPP)
		SKIP(return, "this kernel's driver takes no fault queue for a nested hwpt");
	ASSERT_EQ(0, rc);
	rc = vtd_attach(v, hwpt);
	if (!rc)
		SKIP(return, "no way to make %s send a page request from here", v->bdf);
	/* The device sends no page requests: refused. */
	EXPECT_TRUE(rc == -EOPNOTSUPP || rc == -ENODEV || rc == -EINVAL)
		TH_LOG("errno %d", -rc);
	EXPECT_EQ(0, vtd_destroy(v, hwpt));
	ASSERT_EQ(0, vtd_reattach(v, self->hwpt));
	if (v->engine)
		EXPECT_EQ(TOKEN(A), dev_read(v, IOVA));
}

/*
 * Whether a value may be seen while tables change. A DMA of 8 bytes that meets
 * a refusal may be done as two halves, so each is looked at alone.
 */
static bool plausible(const struct vtd *v, uint64_t value)
{
	static const uint64_t seen[] = { TOKEN(A), TOKEN(B), SENTINEL, 0, ~0ULL };
	bool low = false, high = false;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(seen); i++) {
		uint64_t as_read = vtd_seen(v, seen[i]);

		low = low || (uint32_t)value == (uint32_t)as_read;
		high = high || value >> 32 == as_read >> 32;
	}
	return low && high;
}

struct reader {
	struct vtd *v;
	bool enough;
	unsigned long reads, wrong;
};

static void *keeps_reading(void *arg)
{
	struct reader *r = arg;

	while (!__atomic_load_n(&r->enough, __ATOMIC_RELAXED)) {
		r->wrong += !plausible(r->v, dev_read(r->v, IOVA));
		__atomic_add_fetch(&r->reads, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

TEST_F_TIMEOUT(nested, replace_while_dma_runs, SLOW)
{
	struct vtd *v = &self->v;
	uint64_t other = vtd_new_root(v);
	struct reader reader = { .v = v };
	unsigned long switched = 0;
	pthread_t thread;
	uint32_t hwpt;

	if (!v->engine)
		SKIP(return, "%s", v->why);
	vtd_set(v, other, IOVA, gpa_of(B), FS_LEAF);
	ASSERT_EQ(0, vtd_alloc_nested(v, v->parent, other, 48, &hwpt));
	ASSERT_EQ(0, pthread_create(&thread, NULL, keeps_reading, &reader));
	while (switched < 500 || __atomic_load_n(&reader.reads, __ATOMIC_RELAXED) < 50) {
		ASSERT_EQ(0, vtd_attach(v, switched++ & 1 ? self->hwpt : hwpt));
		usleep(500);
	}
	__atomic_store_n(&reader.enough, true, __ATOMIC_RELAXED);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(0, reader.wrong);
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	EXPECT_EQ(TOKEN(A), dev_read(v, IOVA));
}

FIXTURE(dirty)
{
	struct vtd v;
	uint64_t root;
	uint32_t hwpt;
};

FIXTURE_SETUP(dirty)
{
	struct vtd *v = &self->v;

	ASSERT_SET_UP(return, vtd_tracks(vtd_setup(v, DIRTY_TRACKING), v), v);
	self->root = vtd_new_root(v);
	vtd_set(v, self->root, IOVA, gpa_of(A), FS_LEAF);
	vtd_set(v, self->root, IOVA + PG, gpa_of(B), FS_LEAF);
	ASSERT_EQ(0, vtd_alloc_nested(v, v->parent, self->root, 48, &self->hwpt));
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
}

FIXTURE_TEARDOWN(dirty)
{
	vtd_end(&self->v);
}

static int dirty_set(struct vtd *v, bool on)
{
	struct iommu_hwpt_set_dirty_tracking cmd = {
		.size = sizeof(cmd),
		.flags = on ? IOMMU_HWPT_DIRTY_TRACKING_ENABLE : 0,
		.hwpt_id = v->parent,
	};

	return ioctl(v->iommufd, IOMMU_HWPT_SET_DIRTY_TRACKING, &cmd) ? -errno : 0;
}

/*
 * Reads and clears the dirty bits of all the memory. Into no bitmap on the stack:
 * C loses bits where user addresses end behind it.
 */
static uint64_t bitmap[MEM_PAGES / 64];

static int dirty_get(struct vtd *v)
{
	struct iommu_hwpt_get_dirty_bitmap cmd = {
		.size = sizeof(cmd),
		.hwpt_id = v->parent,
		.iova = GPA_BASE,
		.length = MEM_PAGES * PG,
		.page_size = PG,
		.data = (uintptr_t)bitmap,
	};

	memset(bitmap, 0, sizeof(bitmap));
	return ioctl(v->iommufd, IOMMU_HWPT_GET_DIRTY_BITMAP, &cmd) ? -errno : 0;
}

static bool is_dirty(unsigned int page)
{
	return bitmap[page / 64] >> (page % 64) & 1;
}

TEST_F(dirty, nested_dma_marks_the_parent)
{
	struct vtd *v = &self->v;
	uint64_t *leaf = vtd_entry(v, self->root, 4, IOVA, 1);
	unsigned int leaf_page = ((unsigned char *)leaf - v->mem) / PG;
	int round;

	if (!v->engine)
		SKIP(return, "%s", v->why);
	ASSERT_EQ(0, dirty_set(v, true));
	ASSERT_EQ(0, dirty_get(v));
	for (round = 0; round < 3; round++) {
		EXPECT_EQ(TOKEN(B), dev_read(v, IOVA + PG));
		EXPECT_FALSE(refused(v, dev_read(v, IOVA + PG)));
		/* Read first: the translation is there when the write comes. */
		dev_read(v, IOVA);
		dev_write(v, IOVA + 8, TOKEN(round + 1));
		EXPECT_EQ(TOKEN(round + 1), vtd_seen(v, ((uint64_t *)host_of(v, A))[1]));
		ASSERT_EQ(0, dirty_get(v));
		EXPECT_TRUE(is_dirty(A))
			TH_LOG("round %d", round);
		EXPECT_FALSE(is_dirty(B));
		/* Setting A and D wrote to the page of the table. */
		if (!round)
			EXPECT_TRUE(is_dirty(leaf_page));
	}
	ASSERT_EQ(0, dirty_get(v));
	EXPECT_FALSE(is_dirty(A));
	ASSERT_EQ(0, dirty_set(v, false));
	EXPECT_EQ(TOKEN(A), dev_read(v, IOVA));
}

/* Tracking was switched on first, the nested hwpt attached later. */
TEST_F(dirty, attached_later)
{
	struct vtd *v = &self->v;

	if (!v->engine)
		SKIP(return, "%s", v->why);
	ASSERT_EQ(0, vtd_attach(v, v->ioas));
	ASSERT_EQ(0, dirty_set(v, true));
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	ASSERT_EQ(0, dirty_get(v));
	dev_write(v, IOVA + 8, 1);
	ASSERT_EQ(0, dirty_get(v));
	EXPECT_TRUE(is_dirty(A));
	EXPECT_FALSE(is_dirty(B));
}

/* Large entries of stage 2, each with one dirty bit, behind the other memory. */
#define LARGE_GPA	(2ULL << 30)

FIXTURE(dirty_large)
{
	struct vtd v;
	uint32_t hwpt;
	unsigned char *large;
	uint64_t size;
	/* What it takes to map two of them, and what of the bitmap is not for the range. */
	unsigned char *bitmap;
	uint64_t bytes;
};

FIXTURE_VARIANT(dirty_large)
{
	unsigned int shift;
	unsigned int entries;
};

FIXTURE_VARIANT_ADD(dirty_large, of_2_mib)
{
	.shift = 21,
	.entries = 2,
};

FIXTURE_VARIANT_ADD(dirty_large, of_1_gib)
{
	.shift = 30,
	.entries = 1,
};

FIXTURE_SETUP(dirty_large)
{
	struct vtd *v = &self->v;
	uint64_t root;
	void *at;

	ASSERT_SET_UP(return, vtd_tracks(vtd_setup(v, DIRTY_TRACKING), v), v);
	if (!v->engine)
		SKIP(return, "%s", v->why);
	self->size = 1ULL << variant->shift;
	at = mmap(NULL, variant->entries * self->size, PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | variant->shift << MAP_HUGE_SHIFT, -1,
		  0);
	if (at == MAP_FAILED)
		SKIP(return, "no huge page of 1 << %u bytes", variant->shift);
	self->large = at;
	self->bytes = self->size / PG / 8 * variant->entries + 2 * PG;
	self->bitmap = mmap(NULL, self->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			    -1, 0);
	ASSERT_NE(MAP_FAILED, self->bitmap);
	ASSERT_EQ(0, vtd_map_gpa(v, v->ioas, LARGE_GPA, at, variant->entries * self->size));
	root = vtd_new_root(v);
	/* A page in the middle of each entry. */
	for (unsigned int i = 0; i < variant->entries; i++)
		vtd_set(v, root, IOVA + i * PG, LARGE_GPA + i * self->size + self->size / 2,
			FS_LEAF);
	ASSERT_EQ(0, vtd_alloc_nested(v, v->parent, root, 48, &self->hwpt));
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	ASSERT_EQ(0, dirty_set(v, true));
}

FIXTURE_TEARDOWN(dirty_large)
{
	if (self->bitmap)
		munmap(self->bitmap, self->bytes);
	vtd_end(&self->v);
	if (self->large)
		munmap(self->large, variant->entries * self->size);
}

/*
 * The number of dirty pages among `nr` from page `first` of the large entries on; -1 if there is
 * an error, or a bit where there is no such page.
 */
static int64_t dirty_large(struct vtd *v, unsigned char *room, uint64_t bytes, uint64_t first,
			   uint64_t nr, uint32_t flags)
{
	struct iommu_hwpt_get_dirty_bitmap cmd = {
		.size = sizeof(cmd),
		.hwpt_id = v->parent,
		.flags = flags,
		.iova = LARGE_GPA + first * PG,
		.length = nr * PG,
		.page_size = PG,
		.data = (uintptr_t)room + PG,
	};
	int64_t inside = 0, all = 0;

	memset(room, 0, bytes);
	if (ioctl(v->iommufd, IOMMU_HWPT_GET_DIRTY_BITMAP, &cmd))
		return -1;
	for (uint64_t i = 0; i < bytes; i++)
		all += __builtin_popcount(room[i]);
	for (uint64_t i = 0; i < nr; i++)
		inside += room[PG + i / 8] >> (i % 8) & 1;
	return inside == all ? inside : -1;
}
#define dirty_large(first, nr, flags) \
	dirty_large(&self->v, self->bitmap, self->bytes, first, nr, flags)

/*
 * A part of an entry is as dirty as the entry, nothing else is told, and the entry is clean only
 * after all of it was told; then the next write is seen again.
 */
TEST_F_TIMEOUT(dirty_large, part_by_part, SLOW)
{
	uint64_t pages = self->size / PG, all = variant->entries * pages;
	struct vtd *v = &self->v;

	/* Whatever was written when the memory was made. */
	ASSERT_LE(0, dirty_large(0, all, 0));
	ASSERT_EQ(0, dirty_large(0, all, 0));
	for (unsigned int round = 0; round < 3; round++) {
		dev_write(v, IOVA + 8, TOKEN(round + 1));
		EXPECT_EQ(TOKEN(round + 1),
			  vtd_seen(v, ((uint64_t *)(self->large + self->size / 2))[1]));
		EXPECT_EQ(8, dirty_large(0, 8, IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR));
		EXPECT_EQ(8, dirty_large(0, 8, 0));
		EXPECT_EQ(8, dirty_large(128, 8, 0));
		EXPECT_EQ(pages / 2, dirty_large(pages / 2, pages / 2, 0));
		EXPECT_EQ(pages - 1, dirty_large(0, pages - 1, 0));
		EXPECT_EQ(pages, dirty_large(0, all, 0));
		EXPECT_EQ(0, dirty_large(0, all, 0));
	}
	if (variant->entries < 2)
		return;
	/* Both entries, each in part, and then one of them in whole. */
	dev_write(v, IOVA + 8, 1);
	dev_write(v, IOVA + PG + 8, 1);
	EXPECT_EQ(pages, dirty_large(pages / 2, pages, 0));
	EXPECT_EQ(pages + pages / 2, dirty_large(0, pages + pages / 2, 0));
	EXPECT_EQ(pages, dirty_large(0, all, 0));
	EXPECT_EQ(0, dirty_large(0, all, 0));
}

/* Processes that end in the middle; no device of their own. */
FIXTURE(process)
{
};

FIXTURE_SETUP(process)
{
}

FIXTURE_TEARDOWN(process)
{
}

/* Its DMA never ends. */
static int use(int ready, unsigned int round)
{
	uint32_t hwpt;
	uint64_t root;
	struct vtd v;

	if (vtd_setup(&v, 0))
		return 1;
	root = vtd_new_root(&v);
	vtd_set(&v, root, IOVA, gpa_of(A), FS_LEAF);
	if (vtd_alloc_nested(&v, v.parent, root, 48, &hwpt) || vtd_attach(&v, hwpt) ||
	    dev_read(&v, IOVA) != TOKEN(A) || write(ready, "", 1) != 1)
		return 1;
	for (;;)
		v.engine->dma(&v, true, IOVA);
}

/* Killed in mid-DMA, twenty times: nothing stays pinned, the device is free. */
TEST_F_TIMEOUT(process, killed, SLOW)
{
	unsigned long pinned;
	unsigned int round;
	struct vtd v;
	pid_t pid;

	ASSERT_SET_UP(return, vtd_setup(&v, 0), &v);
	vtd_end(&v);
	if (!v.engine)
		SKIP(return, "%s", v.why);
	pinned = vtd_pinned();
	for (round = 0; round < 20; round++) {
		pid = vtd_begin_user(use, round);
		ASSERT_NE(0, pid);
		usleep(round * 300);
		EXPECT_TRUE(vtd_kill_user(pid));
	}
	EXPECT_EQ(pinned, vtd_unpinned(pinned));
}

/*
 * Writes to the addresses of MSIs are interrupts and no DMA: nothing is mapped there,
 * whoever comes first.
 */
TEST(msi_window)
{
	static const struct {
		uint64_t iova, length;
		bool inside;
	} table[] = {
		{ MSI_START - PG, PG, false },
		{ MSI_START - PG, 2 * PG, true },
		{ MSI_START, PG, true },
		{ MSI_START + 5 * PG, PG, true },
		{ MSI_END - PG, PG, true },
		{ MSI_END - PG, 2 * PG, true },
		{ MSI_END, PG, false },
		{ MSI_START - PG, MSI_END - MSI_START + 2 * PG, true },
	};
	struct iommu_iova_range allowed = { .start = MSI_START, .last = MSI_START + PG - 1 };
	struct iommu_ioas_allow_iovas allow = {
		.size = sizeof(allow), .num_iovas = 1, .allowed_iovas = (uintptr_t)&allowed };
	struct vtd v;
	uint32_t ioas;
	unsigned int i;

	ASSERT_SET_UP(return, vtd_setup(&v, 0), &v);
	/* The device first. */
	ASSERT_EQ(0, vtd_attach(&v, v.ioas));
	for (i = 0; i < ARRAY_SIZE(table); i++) {
		EXPECT_EQ(table[i].inside ? -EINVAL : 0,
			  vtd_map_gpa(&v, v.ioas, table[i].iova, v.mem, table[i].length))
			TH_LOG("row %u", i);
		if (!table[i].inside)
			EXPECT_EQ(0, vtd_unmap_gpa(&v, v.ioas, table[i].iova, table[i].length));
	}
	allow.ioas_id = v.ioas;
	EXPECT_EQ(-1, ioctl(v.iommufd, IOMMU_IOAS_ALLOW_IOVAS, &allow));
	EXPECT_EQ(EADDRINUSE, errno);

	/* The mapping first, or a claim that there will be some: no device comes then. */
	for (i = 0; i < ARRAY_SIZE(table); i++) {
		ASSERT_EQ(0, vtd_alloc_ioas(&v, &ioas));
		ASSERT_EQ(0, vtd_map_gpa(&v, ioas, table[i].iova, v.mem, table[i].length));
		EXPECT_EQ(table[i].inside ? -EADDRINUSE : 0, vtd_attach(&v, ioas))
			TH_LOG("row %u", i);
		/* It is where it was, and comes when the mapping is gone. */
		if (table[i].inside && v.engine)
			EXPECT_EQ(TOKEN(A), dev_read_by(&v, gpa_of(STAGE_PAGE), gpa_of(A)));
		ASSERT_EQ(0, vtd_unmap_gpa(&v, ioas, table[i].iova, table[i].length));
		EXPECT_EQ(0, vtd_attach(&v, ioas));
		EXPECT_EQ(-EINVAL, vtd_map_gpa(&v, ioas, MSI_START, v.mem, PG));
		ASSERT_EQ(0, vtd_attach(&v, v.ioas));
		EXPECT_EQ(0, vtd_destroy(&v, ioas));
	}
	ASSERT_EQ(0, vtd_alloc_ioas(&v, &ioas));
	allow.ioas_id = ioas;
	ASSERT_EQ(0, ioctl(v.iommufd, IOMMU_IOAS_ALLOW_IOVAS, &allow));
	EXPECT_EQ(-EADDRINUSE, vtd_attach(&v, ioas));
	vtd_end(&v);
}

/* After all of it the memory is given back, page for page. */
TEST(everything_released)
{
	unsigned long before, held;
	uint32_t hwpt;
	struct vtd v;

	before = vtd_pinned();
	ASSERT_SET_UP(return, vtd_setup(&v, 0), &v);
	ASSERT_EQ(0, vtd_alloc_nested(&v, v.parent, vtd_new_root(&v), 48, &hwpt));
	ASSERT_EQ(0, vtd_attach(&v, hwpt));
	held = vtd_pinned();
	EXPECT_LE(before + MEM_PAGES, held);
	vtd_end(&v);
	held = vtd_pinned();
	EXPECT_EQ(before, held);
}

int main(int argc, char **argv)
{
	return vtd_take_and_run(argc, argv, test_harness_run);
}
