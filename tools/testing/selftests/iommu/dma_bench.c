// SPDX-License-Identifier: GPL-2.0-only
/*
 * What drivers pay for an IOMMU: DMA API mappings of 4 KiB and of 64 KiB, by the driver
 * pasid_dma/ beside this.
 *
 * usage: dma_bench NAME     nanoseconds for each, in lines as of iommufd_bench whose
 *                           operations end in NAME, which tells the domain
 */
#include <sys/ioctl.h>

#include "kselftest.h"
#include "iommufd_bench.h"
#include "pasid_dma/pasid_dma.h"

#define MAPS	256
#define ROUNDS	9

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		unsigned int size;
	} sizes[] = { { "4k", 4096 }, { "64k", 65536 } };
	double map[ROUNDS], unmap[ROUNDS];
	int fd;

	if (argc != 2)
		return 2;
	fd = open("/dev/pasid_dma", O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		perror("/dev/pasid_dma");
		return 1;
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(sizes); i++) {
		/* The first one fills the caches of IOVAs and makes the tables. */
		for (int round = -1; round < ROUNDS; round++) {
			struct pasid_dma_map cmd = { .size = sizes[i].size, .count = MAPS };

			/* What was unmapped lazily is free after at most 10 ms. */
			usleep(100000);
			must(ioctl(fd, PASID_DMA_MAP, &cmd));
			if (round < 0)
				continue;
			map[round] = (double)cmd.map_ns / MAPS;
			unmap[round] = (double)cmd.unmap_ns / MAPS;
		}
		printf("BENCH,dma_map_%s_%s,op,%.2f\nBENCH,dma_unmap_%s_%s,op,%.2f\n",
		       sizes[i].name, argv[1], bench_median(map, ROUNDS),
		       sizes[i].name, argv[1], bench_median(unmap, ROUNDS));
	}
	close(fd);
	return 0;
}
