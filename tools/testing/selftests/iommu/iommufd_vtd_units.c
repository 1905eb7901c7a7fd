// SPDX-License-Identifier: GPL-2.0-only
/*
 * vIOMMUs of two VT-d units at once, with real DMA: QEMU's `pasid-dma` behind each
 * of two `intel-iommu`, one of which goes and comes with its host bridge
 * (tools/testing/qemu).
 */
#include <sys/stat.h>

#include "kselftest_harness.h"
#include "vtd_pdma.h"
#include "vtd_viommu.h"

#define IOVA	0x200000ULL
#define A	(DATA_PAGE + 10)
#define B	(DATA_PAGE + 20)

/* The guest's names of a device and of a domain: the same on both units. */
#define SID	0x0010U
#define DID	5U

/* What comes back for a transfer that was not done. */
#define REFUSED	0xdeadULL

/* A guest's unit, with one device and one table of domain DID. */
struct unit {
	struct vtd *v;
	uint64_t root;
	uint32_t viommu, vdev, hwpt;
};

/* The unit of the host's that a device is behind. */
static int unit_of(const char *bdf, char name[32])
{
	char path[128], target[256] = "";

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu", bdf);
	if (readlink(path, target, sizeof(target) - 1) < 0)
		return -errno;
	snprintf(name, 32, "%.31s", strrchr(target, '/') + 1);
	return 0;
}

/* Where the host bridge of a device can be told to go. */
static int eject_of(const char *bdf, char path[128])
{
	char link[128], target[256] = "", *root;

	snprintf(link, sizeof(link), "/sys/bus/pci/devices/%s", bdf);
	if (readlink(link, target, sizeof(target) - 1) < 0)
		return -errno;
	root = strstr(target, "/pci");
	if (!root)
		return -ENOENT;
	snprintf(path, 128, "/sys/devices%.12s/firmware_node/eject", root);
	return 0;
}

static bool unpluggable(const char *bdf)
{
	char path[128];

	return !eject_of(bdf, path) && !access(path, W_OK);
}

/* What tells a thing in sysfs from the one that was there before; 0: it is not there. */
static ino_t which(const char *class, const char *name)
{
	char path[128];
	struct stat st;

	snprintf(path, sizeof(path), "/sys/%s/%s", class, name);
	return lstat(path, &st) ? 0 : st.st_ino;
}

/* Unplugs the host bridge of a device, with its unit, and waits for both to come back. */
static int replug(const char *bdf)
{
	ino_t before = which("bus/pci/devices", bdf), now;
	char path[128], name[32];
	int tries, rc;

	rc = eject_of(bdf, path);
	if (!rc)
		rc = sysfs_write(path, "1");
	if (rc)
		return rc;
	for (tries = 0; tries < 600; tries++) {
		usleep(50000);
		now = which("bus/pci/devices", bdf);
		if (now && now != before && !unit_of(bdf, name) && unpluggable(bdf))
			return 0;
	}
	return -ETIMEDOUT;
}

/* The lines of a unit's interrupts. */
static unsigned int interrupts_of(const char *unit)
{
	FILE *f = fopen("/proc/interrupts", "r");
	unsigned int count = 0;
	char line[512];

	while (f && fgets(line, sizeof(line), f))
		count += !!strstr(line, unit);
	if (f)
		fclose(f);
	return count;
}

FIXTURE(units)
{
	struct vtd first, second;
	struct unit a, b;
	uint32_t how;
};

FIXTURE_VARIANT(units)
{
	uint32_t how;
};

FIXTURE_VARIANT_ADD(units, untranslated)
{
	.how = 0,
};

FIXTURE_VARIANT_ADD(units, ats)
{
	.how = PDMA_ATS,
};

static int make_viommu(struct unit *u, struct vtd *all, struct vtd *v)
{
	u->v = v;
	return vtd_alloc_viommu(all, v->dev_id, all->parent, &u->viommu);
}

/* What a guest has on its vIOMMU. */
static int make_guest(struct unit *u, struct vtd *all, unsigned int page)
{
	int rc;

	u->root = vtd_new_table(all);
	vtd_set(all, u->root, IOVA, gpa_of(page), FS_LEAF);
	rc = vtd_alloc_vdev(all, u->viommu, u->v->dev_id, SID, &u->vdev);
	return rc ?: vtd_alloc_pe(u->v, u->viommu, u->root, DID, &u->hwpt);
}

/* Both have all of the guest's memory. */
FIXTURE_SETUP(units)
{
	struct vtd *v = &self->first, *other = &self->second;
	char name[32], other_name[32];
	int rc;

	vtd_none(other);
	ASSERT_SET_UP(return, pdma_setup(v, 0), v);
	if (!vtd_is_pdma(v) || !pdma_find_another(v, other))
		SKIP(return, "there are no two devices of this kind");
	ASSERT_EQ(0, unit_of(v->bdf, name));
	ASSERT_EQ(0, unit_of(other->bdf, other_name));
	if (!strcmp(name, other_name))
		SKIP(return, "both devices are behind one unit");
	ASSERT_EQ(0, pdma_take_another(v, other))
		TH_LOG("%s", other->why);
	if (variant->how && (v->hw_caps & IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED))
		SKIP(return, "%s has no ATS here", v->bdf);
	self->how = variant->how;
	rc = make_viommu(&self->a, v, v);
	if (rc == -EOPNOTSUPP)
		SKIP(return, "this kernel has no vIOMMU for VT-d");
	ASSERT_EQ(0, rc);
	ASSERT_EQ(0, make_guest(&self->a, v, A));
	ASSERT_EQ(0, make_viommu(&self->b, v, other));
	ASSERT_EQ(0, make_guest(&self->b, v, B));
}

FIXTURE_TEARDOWN(units)
{
	vtd_release(&self->second);
	vtd_release(&self->first);
}

static uint64_t get_by(struct unit *u, uint32_t how, uint32_t pasid)
{
	if (pdma_run(u->v, how | PDMA_READ, pasid, IOVA, SENTINEL) != PDMA_DONE)
		return REFUSED;
	return pdma_buffer(u->v);
}

/* In the tests: what the device of a unit reads at IOVA. */
#define GET(unit, pasid)	get_by(unit, self->how, pasid)

#define MOVE(unit, page)	vtd_set(&self->first, (unit)->root, IOVA, gpa_of(page), FS_LEAF)

#define QUEUE_ONE(unit, desc)	vtd_queue_one(&self->first, (unit)->viommu, desc)

/* A vIOMMU is of one unit: what is behind another one is refused, and stays as it was. */
TEST_F(units, of_one_unit)
{
	struct unit *a = &self->a, *b = &self->b;
	struct vtd *v = &self->first;
	uint32_t id;

	ASSERT_EQ(0, vtd_attach(b->v, b->hwpt));
	EXPECT_EQ(TOKEN(B), GET(b, NO_PASID));
	EXPECT_EQ(-EINVAL, vtd_attach(b->v, a->hwpt));
	EXPECT_EQ(-EINVAL, vtd_attach_pasid(b->v, 1, a->hwpt));
	EXPECT_EQ(TOKEN(B), GET(b, NO_PASID));
	EXPECT_EQ(REFUSED, GET(b, 1));
	EXPECT_EQ(-EINVAL, vtd_alloc_pe(b->v, a->viommu, a->root, DID, &id));
	ASSERT_EQ(0, vtd_destroy(v, b->vdev));
	EXPECT_EQ(-EINVAL, vtd_alloc_vdev(v, a->viommu, b->v->dev_id, SID + 1, &id));
	EXPECT_EQ(0, vtd_alloc_vdev(v, b->viommu, b->v->dev_id, SID + 1, &id));
	/* Those on the parent are of any. */
	ASSERT_EQ(0, vtd_alloc_nested(v, v->parent, a->root, 48, &id));
	ASSERT_EQ(0, vtd_attach(b->v, id));
	EXPECT_EQ(TOKEN(A), GET(b, NO_PASID));
}

/* A first stage may map pages of 1 GiB. */
#define CAP_FS1GP	(1ULL << 56)

/* What the kernel made for one unit and the other one cannot use: that stays as it was. */
TEST_F(units, domain_of_the_other)
{
	struct unit *able = &self->a, *other = &self->b;
	uint32_t ioas = self->first.ioas, plain;
	uint64_t token = TOKEN(B);

	if (!((able->v->hw.cap_reg ^ other->v->hw.cap_reg) & CAP_FS1GP))
		SKIP(return, "both units map pages of 1 GiB, or none does");
	if (other->v->hw.cap_reg & CAP_FS1GP) {
		able = &self->b;
		other = &self->a;
		token = TOKEN(A);
	}
	ASSERT_EQ(0, vtd_alloc_hwpt(able->v, ioas, IOMMU_HWPT_ALLOC_PASID, NULL, 0, &plain));
	ASSERT_EQ(0, vtd_attach(other->v, other->hwpt));
	EXPECT_EQ(-EINVAL, vtd_attach(other->v, plain));
	EXPECT_EQ(token, GET(other, NO_PASID));
	EXPECT_EQ(-EINVAL, vtd_attach_pasid(other->v, 1, plain));
	EXPECT_EQ(token, GET(other, NO_PASID));
	EXPECT_EQ(REFUSED, GET(other, 1));
	/* Nor is it used up. */
	ASSERT_EQ(0, vtd_attach(able->v, plain));
	EXPECT_EQ(PDMA_DONE, pdma_run(able->v, self->how | PDMA_READ, NO_PASID, gpa_of(A),
				      SENTINEL));
	EXPECT_EQ(TOKEN(A), pdma_buffer(able->v));
}

/* Each has the guest's names to itself, and its caches. */
TEST_F(units, same_names)
{
	struct unit *a = &self->a, *b = &self->b;
	struct iommu_vtd_inv_desc descs[] = {
		vtd_page(DID, 0, IOVA), vtd_pasid(DID, 0), vtd_iotlb(DID, 2), vtd_iotlb(0, 1),
	};
	unsigned int i;

	ASSERT_EQ(0, vtd_attach(a->v, a->hwpt));
	ASSERT_EQ(0, vtd_attach(b->v, b->hwpt));
	for (i = 0; i < ARRAY_SIZE(descs); i++) {
		struct unit *one = i & 1 ? b : a, *other = i & 1 ? a : b;
		uint64_t was = i & 1 ? TOKEN(A) : TOKEN(B);

		MOVE(a, A);
		MOVE(b, B);
		ASSERT_EQ(0, QUEUE_ONE(a, vtd_iotlb(0, 1)));
		ASSERT_EQ(0, QUEUE_ONE(b, vtd_iotlb(0, 1)));
		ASSERT_EQ(TOKEN(A), GET(a, NO_PASID));
		ASSERT_EQ(TOKEN(B), GET(b, NO_PASID));
		MOVE(a, A + 1);
		MOVE(b, A + 1);
		ASSERT_EQ(0, QUEUE_ONE(one, descs[i]));
		EXPECT_EQ(TOKEN(A + 1), GET(one, NO_PASID))
			TH_LOG("descriptor %u", i);
		EXPECT_EQ(was, GET(other, NO_PASID))
			TH_LOG("descriptor %u", i);
	}
}

/* A source-id is that of a device of the unit whose queue it is. */
TEST_F(units, device_tlb)
{
	struct unit *a = &self->a, *b = &self->b;
	uint32_t ats_a, ats_b;

	if (!variant->how)
		SKIP(return, "the device's cache is not used");
	ASSERT_EQ(0, vtd_alloc_pe_ats(a->v, a->viommu, a->root, DID, &ats_a));
	ASSERT_EQ(0, vtd_alloc_pe_ats(b->v, b->viommu, b->root, DID, &ats_b));
	ASSERT_EQ(0, vtd_attach(a->v, ats_a));
	ASSERT_EQ(0, vtd_attach(b->v, ats_b));
	ASSERT_EQ(TOKEN(A), GET(a, NO_PASID));
	ASSERT_EQ(TOKEN(B), GET(b, NO_PASID));
	MOVE(a, A + 1);
	MOVE(b, B + 1);
	ASSERT_EQ(0, QUEUE_ONE(a, vtd_page(DID, 0, IOVA)));
	ASSERT_EQ(0, QUEUE_ONE(b, vtd_page(DID, 0, IOVA)));
	ASSERT_EQ(0, QUEUE_ONE(b, vtd_dev_tlb(SID, IOVA)));
	EXPECT_EQ(TOKEN(A), GET(a, NO_PASID));
	EXPECT_EQ(TOKEN(B + 1), GET(b, NO_PASID));
	ASSERT_EQ(0, QUEUE_ONE(a, vtd_dev_tlb(SID, IOVA)));
	EXPECT_EQ(TOKEN(A + 1), GET(a, NO_PASID));
}

/* What leaves the parent is gone on both. */
TEST_F(units, parent_unmapped)
{
	struct unit *a = &self->a, *b = &self->b;
	struct vtd *v = &self->first;

	MOVE(b, A);
	ASSERT_EQ(0, vtd_attach(a->v, a->hwpt));
	ASSERT_EQ(0, vtd_attach(b->v, b->hwpt));
	ASSERT_EQ(TOKEN(A), GET(a, NO_PASID));
	ASSERT_EQ(TOKEN(A), GET(b, NO_PASID));
	ASSERT_EQ(0, vtd_unmap_gpa(v, v->ioas, gpa_of(A), PG));
	EXPECT_EQ(REFUSED, GET(a, NO_PASID));
	EXPECT_EQ(REFUSED, GET(b, NO_PASID));
}

/* A fault is told to the guest of the unit that it is of. */
TEST_F(units, faults)
{
	struct unit *a = &self->a, *b = &self->b;
	struct vtd *v = &self->first;
	uint32_t queue_a, queue_b;
	struct vtd_event e;
	int fd_a, fd_b;

	if (variant->how)
		SKIP(return, "devices that ask before see no faults");
	ASSERT_EQ(0, vtd_attach(a->v, a->hwpt));
	ASSERT_EQ(0, vtd_attach(b->v, b->hwpt));
	fd_a = vtd_alloc_faults(v, a->viommu, 4, &queue_a);
	ASSERT_LE(0, fd_a);
	fd_b = vtd_alloc_faults(v, b->viommu, 4, &queue_b);
	ASSERT_LE(0, fd_b);
	EXPECT_EQ(REFUSED, GET(b, 7));
	ASSERT_TRUE(vtd_next_event(fd_b, 1000, &e));
	EXPECT_EQ(0x59, vtd_reason(&e));
	EXPECT_EQ(SID, e.fault.frcd[1] & 0xffff);
	EXPECT_FALSE(vtd_next_event(fd_a, 100, &e));
	EXPECT_EQ(REFUSED, GET(a, 6));
	ASSERT_TRUE(vtd_next_event(fd_a, 1000, &e));
	EXPECT_EQ(0x59, vtd_reason(&e));
	EXPECT_EQ(SID, e.fault.frcd[1] & 0xffff);
	EXPECT_FALSE(vtd_next_event(fd_b, 100, &e));
	close(fd_a);
	close(fd_b);
}

/* Levels of a second stage that a unit walks. */
#define CAP_SAGAW(cap)	((cap) >> 8 & 0x1f)

/* What the kernel and a guest have on one unit. */
struct made {
	uint32_t plain, parent, nested;
};

/* A device behind each of two units that are not the same. */
FIXTURE(differ)
{
	struct vtd v[2];
	struct made made[2];
};

static int make_all(struct vtd *memory, struct vtd *v, struct made *made)
{
	struct iommu_hwpt_vtd_s1 s1 = { .addr_width = 48, .pgtbl_addr = vtd_new_table(memory) };
	uint32_t flags = IOMMU_HWPT_ALLOC_PASID;
	int rc;

	vtd_set(memory, s1.pgtbl_addr, IOVA, gpa_of(A), FS_LEAF);
	rc = vtd_alloc_hwpt(v, memory->ioas, flags, NULL, 0, &made->plain);
	rc = rc ?: vtd_alloc_hwpt(v, memory->ioas, flags | IOMMU_HWPT_ALLOC_NEST_PARENT, NULL, 0,
				  &made->parent);
	return rc ?: vtd_alloc_hwpt(v, made->parent, flags, &s1, 0, &made->nested);
}

static bool levels_differ(struct vtd *v, struct vtd *other)
{
	return !(CAP_SAGAW(v->hw.cap_reg) & CAP_SAGAW(other->hw.cap_reg));
}

/* Whether all is snooped of what is made for one, and the other cannot see to that. */
static bool snoops_more(struct vtd *v, struct vtd *other)
{
	return v->hw.ecap_reg & ~other->hw.ecap_reg & ECAP_SC;
}

FIXTURE_SETUP(differ)
{
	struct vtd *v = &self->v[0], *other = &self->v[1];
	unsigned int i;

	vtd_none(other);
	ASSERT_SET_UP(return, pdma_setup(v, 0), v);
	if (!vtd_is_pdma(v) || !pdma_find_another(v, other))
		SKIP(return, "there are no two devices of this kind");
	ASSERT_EQ(0, pdma_take_another(v, other))
		TH_LOG("%s", other->why);
	if (!levels_differ(v, other) && !snoops_more(v, other) && !snoops_more(other, v))
		SKIP(return, "both units snoop, and walk as many levels, or neither does");
	for (i = 0; i < ARRAY_SIZE(self->v); i++)
		ASSERT_EQ(0, make_all(v, &self->v[i], &self->made[i]));
}

FIXTURE_TEARDOWN(differ)
{
	vtd_release(&self->v[1]);
	vtd_release(&self->v[0]);
}

static uint64_t read_at(struct vtd *v, uint32_t pasid)
{
	if (pdma_run(v, PDMA_READ, pasid, IOVA, SENTINEL) != PDMA_DONE)
		return REFUSED;
	return pdma_buffer(v);
}

/* What is nested is for whom its parent is for. Who is refused stays as it was. */
TEST_F(differ, refused)
{
	unsigned int i, n;

	for (i = 0; i < ARRAY_SIZE(self->v); i++) {
		struct vtd *v = &self->v[i], *other = &self->v[1 - i];
		bool levels = levels_differ(v, other), snoop = snoops_more(other, v);
		const struct {
			uint32_t id;
			bool refused;
		} others[] = {
			{ self->made[1 - i].plain, snoop },
			{ self->made[1 - i].parent, levels || snoop },
			{ self->made[1 - i].nested, levels || snoop },
		};

		for (n = 0; n < ARRAY_SIZE(others); n++) {
			int want = others[n].refused ? -EINVAL : 0;

			ASSERT_EQ(0, vtd_attach(v, self->made[i].nested));
			ASSERT_EQ(0, vtd_attach_pasid(v, 2, self->made[i].nested));
			EXPECT_EQ(want, vtd_attach(v, others[n].id));
			EXPECT_EQ(want, vtd_attach_pasid(v, 1, others[n].id));
			EXPECT_EQ(want, vtd_attach_pasid(v, 2, others[n].id));
			if (want) {
				EXPECT_EQ(TOKEN(A), read_at(v, NO_PASID));
				EXPECT_EQ(REFUSED, read_at(v, 1));
				EXPECT_EQ(TOKEN(A), read_at(v, 2));
			} else {
				EXPECT_EQ(0, vtd_detach_pasid(v, 1));
			}
		}
	}
}

/* The test that unplugs comes last, as PCI may find no room for what comes back. */
FIXTURE(unplug)
{
	struct vtd v;
	struct unit unit;
	char name[32];
};

FIXTURE_SETUP(unplug)
{
	struct vtd *v = &self->v, other;
	int rc;

	ASSERT_SET_UP(return, pdma_setup(v, 0), v);
	if (!unpluggable(v->bdf) && pdma_find_another(v, &other) && unpluggable(other.bdf)) {
		vtd_release(v);
		setenv("VTD_DEVICE", other.bdf, 1);
		ASSERT_SET_UP(return, pdma_setup(v, 0), v);
	}
	if (!vtd_is_pdma(v) || !unpluggable(v->bdf))
		SKIP(return, "no unit can be unplugged here");
	ASSERT_EQ(0, unit_of(v->bdf, self->name));
	rc = make_viommu(&self->unit, v, v);
	if (rc == -EOPNOTSUPP)
		SKIP(return, "this kernel has no vIOMMU for VT-d");
	ASSERT_EQ(0, rc);
	ASSERT_EQ(0, make_guest(&self->unit, v, A));
}

FIXTURE_TEARDOWN(unplug)
{
	vtd_release(&self->v);
}

/*
 * A unit is not removed while it has a vIOMMU, which may be there for longer than its
 * devices, nor is it set up anew.
 */
TEST_F_TIMEOUT(unplug, with_a_viommu, SLOW)
{
	struct unit *u = &self->unit;
	struct vtd *v = &self->v;
	unsigned int interrupts;
	ino_t unit;

	ASSERT_EQ(0, vtd_attach(v, u->hwpt));
	EXPECT_EQ(TOKEN(A), get_by(u, 0, NO_PASID));
	unit = which("class/iommu", self->name);
	interrupts = interrupts_of(self->name);
	ASSERT_NE(0, unit);
	ASSERT_LT(0, interrupts);
	vtd_close_device(v);
	ASSERT_EQ(0, replug(v->bdf));
	EXPECT_EQ(unit, which("class/iommu", self->name));
	EXPECT_EQ(interrupts, interrupts_of(self->name));
	ASSERT_EQ(0, vtd_destroy(v, u->hwpt));
	ASSERT_EQ(0, replug(v->bdf));
	EXPECT_EQ(unit, which("class/iommu", self->name));
	EXPECT_EQ(interrupts, interrupts_of(self->name));
	ASSERT_EQ(0, vtd_destroy(v, u->viommu));
	ASSERT_EQ(0, replug(v->bdf));
	EXPECT_NE(unit, which("class/iommu", self->name));
	EXPECT_EQ(interrupts, interrupts_of(self->name));
}

TEST_HARNESS_MAIN
