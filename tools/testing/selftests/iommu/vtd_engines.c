// SPDX-License-Identifier: GPL-2.0-only
/*
 * The engines that are known: QEMU's devices for tests, drives, and what upstream's
 * VFIO selftests know.
 */
#include "kselftest.h"
#include "vtd_engine.h"

/* What nobody misses comes first. */
static const struct vtd_engine *const engines[] = {
	&vtd_edu, &vtd_pasid_dma, &vtd_libvfio, &vtd_nvme,
};

const struct vtd_engine *vtd_engine_for(const char *bdf)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(engines); i++) {
		if (engines[i]->knows(bdf))
			return engines[i];
	}
	return NULL;
}

bool vtd_comes_before(const struct vtd_engine *one, const struct vtd_engine *other)
{
	unsigned int i = 0;

	while (engines[i] != one && engines[i] != other)
		i++;
	return engines[i] == one && one != other;
}

/* One page table for all stage-1 tables. */
static void map_engine_pages(struct vtd *v)
{
	uint64_t table = vtd_new_table(v);
	unsigned int page;

	v->engine_table = vtd_new_table(v);
	*entry_of(v, v->engine_table, 0) = table | FS_LEAF;
	for (page = ENGINE_PAGE; page < DATA_PAGE; page++)
		*entry_of(v, table, page) = gpa_of(page) | FS_LEAF;
}

static int start_engine(struct vtd *v)
{
	int rc;

	map_engine_pages(v);
	if (vtd_map_bar(v))
		return -1;
	errno = -vtd_attach(v, v->ioas);
	if (errno)
		return vtd_fail(v, "attaching to start the engine");
	rc = v->engine->start(v);
	errno = -vtd_detach(v);
	if (errno)
		return vtd_fail(v, "detaching");
	return rc;
}

int vtd_setup(struct vtd *v, uint32_t parent_flags)
{
	int rc;

	/* A test that is given up does not keep the device from who had it. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	rc = vtd_setup_on(v, EDU_ID, parent_flags);
	if (rc)
		return rc;
	v->engine = vtd_engine_for(v->bdf);
	if (!v->engine)
		snprintf(v->why, sizeof(v->why), "no way is known to make %s do DMA", v->bdf);
	if (!v->engine || !v->engine->start)
		return 0;
	rc = start_engine(v);
	if (rc > 0)
		v->engine = NULL;
	return rc < 0 ? rc : 0;
}

void vtd_end(struct vtd *v)
{
	if (v->engine && v->engine->stop && v->engine_state)
		v->engine->stop(v);
	v->engine_state = NULL;
	vtd_release(v);
}
