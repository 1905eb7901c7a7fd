// SPDX-License-Identifier: GPL-2.0-only
/*
 * QEMU's devices for tests as engines, and what tests do with any engine.
 */
#include "kselftest.h"
#include "vtd_engine.h"
#include "vtd_pdma.h"

#define EDU_BUFFER	0x40000ULL

static bool has_id(const char *bdf, uint32_t id)
{
	return pci_id_of(bdf) == id;
}

static bool edu_knows(const char *bdf)
{
	return has_id(bdf, EDU_ID);
}

/* A refused transfer is silent. */
static int edu_dma(struct vtd *v, bool to_memory, uint64_t iova)
{
	uint64_t *reg = (uint64_t *)(v->bar + 0x80);	/* source, target, count, command */
	struct timespec nap = { .tv_nsec = 200000 };
	int tries;

	__atomic_store_n(&reg[0], to_memory ? EDU_BUFFER : iova, __ATOMIC_RELAXED);
	__atomic_store_n(&reg[1], to_memory ? iova : EDU_BUFFER, __ATOMIC_RELAXED);
	__atomic_store_n(&reg[2], 8, __ATOMIC_RELAXED);
	/* Memory is written before it starts and read after it. */
	__sync_synchronize();
	__atomic_store_n(&reg[3], to_memory ? 3 : 1, __ATOMIC_RELAXED);
	for (tries = 0; tries < 50000; tries++) {
		if (!(__atomic_load_n(&reg[3], __ATOMIC_RELAXED) & 1)) {
			__sync_synchronize();
			return 0;
		}
		nanosleep(&nap, NULL);
	}
	return -ETIMEDOUT;
}

const struct vtd_engine vtd_edu = {
	.name = "edu",
	.does = "has it copy memory",
	.knows = edu_knows,
	.dma = edu_dma,
	.shows = ~0ULL,
};

static bool pasid_dma_knows(const char *bdf)
{
	return has_id(bdf, PDMA_ID);
}

/* Without a PASID: iommufd_vtd_pasid is about those. */
static int pasid_dma_dma(struct vtd *v, bool to_memory, uint64_t iova)
{
	uint32_t command = to_memory ? PDMA_WRITE : PDMA_READ;

	return pdma_run(v, command, NO_PASID, iova, pdma_buffer(v)) == PDMA_DONE ? 0 : -EIO;
}

const struct vtd_engine vtd_pasid_dma = {
	.name = "pasid-dma",
	.does = "has it copy memory",
	.knows = pasid_dma_knows,
	.dma = pasid_dma_dma,
	.shows = ~0ULL,
};

uint64_t vtd_seen(const struct vtd *v, uint64_t value)
{
	uint64_t shows = v->engine ? v->engine->shows : ~0ULL;

	return (value & shows) | (TOKEN(0) & ~shows);
}

uint64_t dev_read_by(struct vtd *v, uint64_t stage, uint64_t iova)
{
	/* So that what it kept before is not taken for what it has read. */
	*vtd_stage(v) = SENTINEL;
	v->engine->dma(v, false, stage);
	if (!v->engine->dma(v, false, iova))
		v->engine->dma(v, true, stage);
	return vtd_seen(v, *vtd_stage(v));
}

void dev_write_by(struct vtd *v, uint64_t stage, uint64_t iova, uint64_t value)
{
	*vtd_stage(v) = value;
	if (!v->engine->dma(v, false, stage))
		v->engine->dma(v, true, iova);
}
