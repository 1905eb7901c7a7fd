// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a VMM does with a vIOMMU on VT-d, with each step failing once that can, as in
 * iommufd_fail_nth: allocations, copies of user memory (FAULT_INJECTION_USERCOPY), and
 * what iommufd itself has fail (IOMMUFD_TEST). An error says so, nothing is left behind,
 * devices do their DMA as before, and the next try works. VTD_DEVICE as for
 * iommufd_vtd_pasid.
 */
#include "kselftest_harness.h"
#include "vtd_pdma.h"
#include "vtd_sweep.h"
#include "vtd_viommu.h"

#define IOVA	0x200000ULL
#define A	(DATA_PAGE + 10)
#define B	(DATA_PAGE + 20)
#define SID	0x0010U
#define DID	5U
#define DID2	6U
#define REFUSED	0xdeadULL

static unsigned int descriptors(void)
{
	unsigned int count = 0;
	DIR *dir = opendir("/proc/self/fd");

	while (dir && readdir(dir))
		count++;
	if (dir)
		closedir(dir);
	return count;
}

FIXTURE(fail)
{
	struct vtd v;
	struct sweep s;
	unsigned long pinned;
	unsigned int descriptors;
	uint64_t root;
	uint32_t viommu, vdev, hwpt;
	int did;
};

/*
 * What a hwpt is to the unit if it is the next to take a domain-id: the lowest that is
 * free when the parent has given back its own and taken the lowest that was free.
 */
static int next_did(struct vtd *v, uint32_t viommu, uint64_t root)
{
	uint32_t hwpt;
	int did = -1;

	if (vtd_detach(v) || vtd_attach(v, v->parent) ||
	    vtd_alloc_pe(v, viommu, root, 0xffff, &hwpt))
		return -1;
	if (!vtd_attach(v, hwpt))
		did = vtd_did_of(v, hwpt);
	if (vtd_attach(v, v->parent) || vtd_destroy(v, hwpt))
		return -1;
	return did;
}

FIXTURE_SETUP(fail)
{
	struct vtd *v = &self->v;
	int rc;

	vtd_none(v);
	if (access("/proc/self/fail-nth", F_OK))
		SKIP(return, "fault injection is not enabled in the kernel");
	self->pinned = vtd_pinned();
	ASSERT_SET_UP(return, pdma_setup(v, 0), v);
	if (!vtd_is_pdma(v))
		SKIP(return, "no way to make %s do DMA from here", v->bdf);
	rc = vtd_alloc_viommu(v, v->dev_id, v->parent, &self->viommu);
	if (rc == -EOPNOTSUPP)
		SKIP(return, "this kernel has no vIOMMU for VT-d");
	ASSERT_EQ(0, rc);
	ASSERT_EQ(0, vtd_alloc_vdev(v, self->viommu, v->dev_id, SID, &self->vdev));
	self->root = vtd_new_table(v);
	vtd_set(v, self->root, IOVA, gpa_of(A), FS_LEAF);
	ASSERT_EQ(0, vtd_alloc_pe(v, self->viommu, self->root, DID, &self->hwpt));
	ASSERT_EQ(0, vtd_attach(v, v->parent));
	self->did = next_did(v, self->viommu, self->root);
	ASSERT_LT(0, self->did);
	self->descriptors = descriptors();
}

FIXTURE_TEARDOWN(fail)
{
	struct vtd *v = &self->v;

	if (self->descriptors) {
		/* What is left would keep what it is on. */
		EXPECT_EQ(self->descriptors, descriptors());
		EXPECT_EQ(self->did, next_did(v, self->viommu, self->root));
		EXPECT_EQ(0, vtd_attach(v, v->ioas));
		EXPECT_EQ(0, vtd_destroy(v, self->hwpt));
		EXPECT_EQ(0, vtd_destroy(v, self->vdev));
		EXPECT_EQ(0, vtd_destroy(v, self->viommu));
		EXPECT_EQ(0, vtd_destroy(v, v->parent));
		EXPECT_EQ(0, vtd_attach(v, v->ioas));
	}
	vtd_release(v);
	if (self->descriptors)
		EXPECT_EQ(self->pinned, vtd_unpinned(self->pinned));
}

static uint64_t get(struct vtd *v, uint32_t pasid)
{
	if (pdma_run(v, PDMA_READ, pasid, IOVA, SENTINEL) != PDMA_DONE)
		return REFUSED;
	return pdma_buffer(v);
}

TEST_F(fail, viommu)
{
	struct vtd *v = &self->v;
	struct sweep *s = &self->s;
	uint32_t id, vdev;
	int rc;

	ASSERT_EQ(0, vtd_destroy(v, self->vdev));
	FAIL_EACH(s, rc, vtd_alloc_viommu(v, v->dev_id, v->parent, &id)) {
		if (!WORKED(s, rc))
			continue;
		EXPECT_EQ(0, vtd_alloc_vdev(v, id, v->dev_id, SID, &vdev));
		EXPECT_EQ(0, vtd_destroy(v, vdev));
		EXPECT_EQ(0, vtd_destroy(v, id));
	}
	SWEPT(s, rc);
	ASSERT_EQ(0, vtd_alloc_vdev(v, self->viommu, v->dev_id, SID, &self->vdev));
}

/* The name is free after a failure: for this device, and that there is one. */
TEST_F(fail, vdevice)
{
	struct vtd *v = &self->v;
	struct sweep *s = &self->s;
	uint32_t id;
	int rc;

	ASSERT_EQ(0, vtd_destroy(v, self->vdev));
	FAIL_EACH(s, rc, vtd_alloc_vdev(v, self->viommu, v->dev_id, SID, &id)) {
		if (!WORKED(s, rc)) {
			EXPECT_EQ(-ENODEV, vtd_queue_one(v, self->viommu, vtd_dev_tlb(SID, IOVA)));
			EXPECT_EQ(0, vtd_alloc_vdev(v, self->viommu, v->dev_id, SID, &id));
		}
		EXPECT_EQ(0, vtd_queue_one(v, self->viommu, vtd_dev_tlb(SID, IOVA)));
		EXPECT_EQ(0, vtd_destroy(v, id));
	}
	SWEPT(s, rc);
	ASSERT_EQ(0, vtd_alloc_vdev(v, self->viommu, v->dev_id, SID, &self->vdev));
}

/* Under a domain-id that is new, and under one that is there. */
TEST_F(fail, nested)
{
	static const uint16_t dids[] = { DID2, DID };
	struct vtd *v = &self->v;
	struct sweep *s = &self->s;
	unsigned int i;
	uint32_t id;
	int rc;

	for (i = 0; i < ARRAY_SIZE(dids); i++) {
		FAIL_EACH(s, rc, vtd_alloc_pe(v, self->viommu, self->root, dids[i], &id)) {
			if (!WORKED(s, rc))
				continue;
			EXPECT_EQ(0, vtd_attach(v, id));
			EXPECT_EQ(TOKEN(A), get(v, NO_PASID));
			EXPECT_EQ(0, vtd_attach(v, v->parent));
			EXPECT_EQ(0, vtd_destroy(v, id));
		}
		SWEPT(s, rc);
	}
}

TEST_F(fail, veventq)
{
	struct vtd *v = &self->v;
	struct sweep *s = &self->s;
	struct vtd_event e;
	int rc, fd = -1;
	uint32_t id = 0;

	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	FAIL_EACH(s, rc, ({
		fd = vtd_alloc_faults(v, self->viommu, 4, &id);
		fd < 0 ? fd : 0;
	})) {
		if (!WORKED(s, rc))
			fd = vtd_alloc_faults(v, self->viommu, 4, &id);
		ASSERT_LE(0, fd);
		EXPECT_EQ(PDMA_FAULT, pdma_run(v, PDMA_READ, NO_PASID, 0, SENTINEL));
		EXPECT_TRUE(vtd_next_event(fd, 1000, &e));
		EXPECT_EQ(SID, e.fault.frcd[1] & 0xffff);
		EXPECT_EQ(0, close(fd));
		EXPECT_EQ(0, vtd_destroy(v, id));
	}
	SWEPT(s, rc);
	ASSERT_EQ(0, vtd_attach(v, v->parent));
}

/* Where it says that all was done, all was; as many as it says otherwise. */
TEST_F(fail, invalidate)
{
	struct iommu_vtd_inv_desc descs[70];
	struct vtd *v = &self->v;
	struct sweep *s = &self->s;
	unsigned int i, page = A;
	uint32_t num;
	int rc;

	/* Only the last one is for what is in use. */
	for (i = 0; i < ARRAY_SIZE(descs); i++)
		descs[i] = i % 8 == 5 ? vtd_iotlb(DID2, 2) : i % 8 == 3 ? vtd_dev_tlb(SID, IOVA) :
			   vtd_page(DID2, 0, IOVA + i * PG);
	descs[69] = vtd_page(DID, 0, IOVA);
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	ASSERT_EQ(TOKEN(A), get(v, NO_PASID));
	FAIL_EACH(s, rc, ({
		page = A + B - page;
		vtd_set(v, self->root, IOVA, gpa_of(page), FS_LEAF);
		num = ARRAY_SIZE(descs);
		vtd_queue(v, self->viommu, descs, &num);
	})) {
		if (WORKED(s, rc)) {
			EXPECT_EQ(ARRAY_SIZE(descs), num);
			EXPECT_EQ(TOKEN(page), get(v, NO_PASID));
		}
		EXPECT_EQ(0, vtd_queue_one(v, self->viommu, vtd_pasid(DID, 0)));
		EXPECT_EQ(TOKEN(page), get(v, NO_PASID));
	}
	SWEPT(s, rc);
	ASSERT_EQ(0, vtd_attach(v, v->parent));
}

/*
 * A device that could not be attached does what it did before; where VFIO could not say
 * that it was, it has detached it.
 */
static bool as_it_should(int rc, uint64_t now, uint64_t after, uint64_t before)
{
	return now == (rc ? before : after) || (rc == -EFAULT && now == REFUSED);
}

/* @pasid has @old, where B is, and gets @new, where A is. */
static void replace(struct __test_metadata *_metadata, struct vtd *v, struct sweep *s,
		    uint32_t pasid, uint32_t old, uint32_t new)
{
	uint64_t now;
	int rc;

	ASSERT_EQ(0, vtd_attach_at(v, pasid, old));
	FAIL_EACH(s, rc, vtd_attach_at(v, pasid, new)) {
		now = get(v, pasid);
		WORKED(s, rc);
		EXPECT_TRUE(as_it_should(rc, now, TOKEN(A), TOKEN(B)))
			TH_LOG("%d, %#llx", rc, (unsigned long long)now);
		EXPECT_EQ(0, vtd_attach_at(v, pasid, new));
		EXPECT_EQ(TOKEN(A), get(v, pasid));
		EXPECT_EQ(0, vtd_attach_at(v, pasid, old));
	}
	SWEPT(s, rc);
}

TEST_F(fail, attach)
{
	uint64_t before = vtd_new_table(&self->v);
	struct vtd *v = &self->v;
	uint32_t hwpt;

	vtd_set(v, before, IOVA, gpa_of(B), FS_LEAF);
	ASSERT_EQ(0, vtd_alloc_nested(v, v->parent, before, 48, &hwpt));
	replace(_metadata, v, &self->s, NO_PASID, hwpt, self->hwpt);
	ASSERT_EQ(0, vtd_attach(v, v->parent));
	ASSERT_EQ(0, vtd_destroy(v, hwpt));
}

/* A domain of the kernel's, of the first stage and of the second one, where a guest's was. */
TEST_F(fail, attach_paging)
{
	static const uint32_t flags[] = { 0, IOMMU_HWPT_ALLOC_NEST_PARENT };
	static const uint32_t pasids[] = { NO_PASID, 1 };
	uint64_t before = vtd_new_table(&self->v);
	uint32_t hwpt, ioas, paging;
	struct vtd *v = &self->v;
	unsigned int i, j;

	vtd_set(v, before, IOVA, gpa_of(B), FS_LEAF);
	ASSERT_EQ(0, vtd_alloc_pe(v, self->viommu, before, DID2, &hwpt));
	ASSERT_EQ(0, vtd_alloc_ioas(v, &ioas));
	ASSERT_EQ(0, vtd_map_gpa(v, ioas, IOVA, host_of(v, A), PG));
	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		ASSERT_EQ(0, vtd_alloc_hwpt(v, ioas, flags[i] | IOMMU_HWPT_ALLOC_PASID, NULL, 0,
					    &paging));
		for (j = 0; j < ARRAY_SIZE(pasids); j++)
			replace(_metadata, v, &self->s, pasids[j], hwpt, paging);
		ASSERT_EQ(0, vtd_attach(v, v->parent));
		ASSERT_EQ(0, vtd_detach_pasid(v, 1));
		ASSERT_EQ(0, vtd_destroy(v, paging));
	}
	ASSERT_EQ(0, vtd_destroy(v, ioas));
	ASSERT_EQ(0, vtd_destroy(v, hwpt));
}

/* So many PASIDs share a table, which the first that is attached makes. */
#define TABLE_PASIDS	64

TEST_F(fail, attach_pasid)
{
	static const uint32_t steps[] = { 0, TABLE_PASIDS };
	struct vtd *v = &self->v;
	struct sweep *s = &self->s;
	uint32_t ioas, pts[2] = { self->hwpt }, pasid = 1;
	unsigned int i;
	uint64_t now;
	int rc;

	ASSERT_EQ(0, vtd_alloc_ioas(v, &ioas));
	ASSERT_EQ(0, vtd_map_gpa(v, ioas, IOVA, host_of(v, A), PG));
	ASSERT_EQ(0, vtd_alloc_hwpt(v, ioas, IOMMU_HWPT_ALLOC_PASID, NULL, 0, &pts[1]));
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	for (i = 0; i < 4; i++) {
		uint32_t pt = pts[i / 2];

		FAIL_EACH(s, rc, vtd_attach_pasid(v, pasid, pt)) {
			now = get(v, pasid);
			EXPECT_EQ(WORKED(s, rc) ? TOKEN(A) : REFUSED, now);
			EXPECT_EQ(TOKEN(A), get(v, NO_PASID));
			EXPECT_EQ(0, vtd_attach_pasid(v, pasid, pt));
			EXPECT_EQ(TOKEN(A), get(v, pasid));
			EXPECT_EQ(0, vtd_detach_pasid(v, pasid));
			pasid += steps[i % 2];
		}
		SWEPT(s, rc);
	}
	ASSERT_EQ(0, vtd_attach(v, v->parent));
	ASSERT_EQ(0, vtd_destroy(v, pts[1]));
	ASSERT_EQ(0, vtd_destroy(v, ioas));
}

TEST_F(fail, replace_pasid)
{
	uint64_t before = vtd_new_table(&self->v);
	struct vtd *v = &self->v;
	uint32_t hwpt;

	vtd_set(v, before, IOVA, gpa_of(B), FS_LEAF);
	ASSERT_EQ(0, vtd_alloc_pe_ats(v, self->viommu, before, DID2, &hwpt));
	replace(_metadata, v, &self->s, 1, hwpt, self->hwpt);
	ASSERT_EQ(0, vtd_detach_pasid(v, 1));
	ASSERT_EQ(0, vtd_destroy(v, hwpt));
}

TEST_HARNESS_MAIN
