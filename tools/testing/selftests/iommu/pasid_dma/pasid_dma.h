/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/* What /dev/pasid_dma understands. */
#ifndef PASID_DMA_H
#define PASID_DMA_H

#include <linux/ioctl.h>
#include <linux/types.h>

/*
 * Lets the device into the memory of the caller's process, until the file is closed.
 * Gives the PASID with which it gets there. Once for each file.
 */
#define PASID_DMA_BIND _IOR('P', 1, __u32)

/*
 * Maps a buffer of @size bytes @count times for the device by the DMA API, then unmaps
 * it all, and gives the nanoseconds that each took.
 */
struct pasid_dma_map {
	__u32 size;	/* 1 to PASID_DMA_MOST_BYTES */
	__u32 count;	/* 1 to PASID_DMA_MOST_MAPS */
	__u64 map_ns;
	__u64 unmap_ns;
};

#define PASID_DMA_MOST_BYTES (1U << 20)
#define PASID_DMA_MOST_MAPS 1024U
#define PASID_DMA_MAP _IOWR('P', 2, struct pasid_dma_map)

#endif
