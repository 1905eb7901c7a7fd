/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Devices that can be told to do DMA, and how: an engine for each kind. What the
 * tests want of one is that it reads 8 bytes at an IOVA and keeps them, and that it
 * writes what it keeps to an IOVA.
 */
#ifndef VTD_ENGINE_H
#define VTD_ENGINE_H

#include "vtd_nested.h"

struct vtd_engine {
	const char *name;
	/* What it does to the device, for the person whose device it is. */
	const char *does;
	/* Goes by the PCI id or class alone: nothing is taken yet. */
	bool (*knows)(const char *bdf);
	/* Whether somebody uses the device (v->why says who); NULL: nobody can. */
	bool (*in_use)(struct vtd *v);
	/*
	 * The device is attached to the IOAS and has the pages from ENGINE_PAGE on, at
	 * their GPA there and in all stage-1 tables. 1: this one cannot, v->why says why.
	 */
	int (*start)(struct vtd *v);
	void (*stop)(struct vtd *v);
	/*
	 * Reads 8 bytes at @iova, which is the begin of a page, or writes those that it
	 * read last, anywhere. Waits for the end. -EIO: the device says that it was
	 * refused; not all devices do.
	 */
	int (*dma)(struct vtd *v, bool to_memory, uint64_t iova);
	/* The bits of a value that are the same afterwards. */
	uint64_t shows;
};

extern const struct vtd_engine vtd_edu, vtd_pasid_dma, vtd_libvfio, vtd_nvme;

const struct vtd_engine *vtd_engine_for(const char *bdf);
/* Whether to take a device of @one rather than one of @other, which may be NULL. */
bool vtd_comes_before(const struct vtd_engine *one, const struct vtd_engine *other);

/*
 * vtd_setup_on() of a device with an engine, or of the one that VTD_DEVICE names. Without
 * an engine v->why says why there is none.
 */
int vtd_setup(struct vtd *v, uint32_t parent_flags);
void vtd_end(struct vtd *v);

/* What is left of a value that came through the device. */
uint64_t vtd_seen(const struct vtd *v, uint64_t value);

/* The device reads 8 bytes at @iova; @stage is where it finds the staging page. */
uint64_t dev_read_by(struct vtd *v, uint64_t stage, uint64_t iova);
/* The device writes @value to @iova. */
void dev_write_by(struct vtd *v, uint64_t stage, uint64_t iova, uint64_t value);

static inline uint64_t dev_read(struct vtd *v, uint64_t iova)
{
	return dev_read_by(v, STAGE_IOVA, iova);
}

static inline void dev_write(struct vtd *v, uint64_t iova, uint64_t value)
{
	dev_write_by(v, STAGE_IOVA, iova, value);
}

/* Whether a value is what a read that the IOMMU refused leaves behind. */
static inline bool refused(const struct vtd *v, uint64_t value)
{
	return value == vtd_seen(v, SENTINEL) || value == vtd_seen(v, 0) ||
	       value == vtd_seen(v, ~0ULL);
}

/*
 * Runs @tests with a device taken over as the words on the command line say, which are
 * taken out of them, and gives the device back whatever becomes of the tests.
 */
int vtd_take_and_run(int argc, char **argv, int (*tests)(int argc, char **argv));

#endif
