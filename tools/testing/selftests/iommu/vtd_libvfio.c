// SPDX-License-Identifier: GPL-2.0-only
/*
 * DMA by the devices that upstream's VFIO selftests have drivers for, with the library of
 * those: igb (82576), DSA and IOAT. It wants a device that is bound and attached by itself,
 * so here is what the tests have made of one, in the library's terms.
 */
#include <linux/pci_ids.h>
#include <libvfio.h>

#include "vtd_engine.h"

/* The least that all of them copy. */
#define COPY		64U
#define LAST_PAGE	(DATA_PAGE - 1)

struct libvfio {
	struct vfio_pci_device *device;
	struct iommu iommu;
};

static bool libvfio_knows(const char *bdf)
{
	static const uint16_t ids[] = {
		0x10c9,		/* 82576 */
		0x2021,		/* IOAT of Skylake */
		PCI_DEVICE_ID_INTEL_DSA_SPR0, PCI_DEVICE_ID_INTEL_DSA_GNRD,
		PCI_DEVICE_ID_INTEL_DSA_DMR,
	};
	unsigned int i, id = sysfs_hex(bdf, "device");

	for (i = 0; i < ARRAY_SIZE(ids); i++) {
		if (sysfs_hex(bdf, "vendor") == PCI_VENDOR_ID_INTEL && id == ids[i])
			return true;
	}
	return false;
}

/* The value of a hexadecimal or decimal file below the device. */
static unsigned long value_of(struct vtd *v, const char *folder, const char *name, const char *file)
{
	unsigned long value = 0;
	char path[600], text[32];
	FILE *f;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s/%s/%s", v->bdf, folder, name,
		 file);
	f = fopen(path, "r");
	if (f) {
		if (fgets(text, sizeof(text), f))
			value = strtoul(text, NULL, 0);
		fclose(f);
	}
	return value;
}

/* A network interface that is up, or a DMA channel that somebody has. */
static bool libvfio_in_use(struct vtd *v)
{
	static const char *const ways[][2] = { { "net", "flags" }, { "dma", "in_use" } };
	struct dirent *e;
	char path[300];
	bool used = false;
	unsigned int i;
	DIR *dir;

	for (i = 0; i < 2 && !used; i++) {
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", v->bdf, ways[i][0]);
		dir = opendir(path);
		while (dir && !used && (e = readdir(dir))) {
			/* IFF_UP is bit 0, and a channel's users are counted. */
			used = e->d_name[0] != '.' &&
			       value_of(v, ways[i][0], e->d_name, ways[i][1]) & (i ? ~0UL : 1);
			if (used)
				snprintf(v->why, sizeof(v->why), "%.60s of %s is in use",
					 e->d_name, v->bdf);
		}
		if (dir)
			closedir(dir);
	}
	return used;
}

static int map_bars(struct vtd *v, struct vfio_pci_device *device)
{
	unsigned int i;

	for (i = 0; i < PCI_STD_NUM_BARS; i++) {
		struct vfio_pci_bar *bar = &device->bars[i];

		bar->info.argsz = sizeof(bar->info);
		bar->info.index = i;
		if (ioctl(v->dev, VFIO_DEVICE_GET_REGION_INFO, &bar->info))
			return vtd_fail(v, "regions");
		if (!(bar->info.flags & VFIO_REGION_INFO_FLAG_MMAP))
			continue;
		bar->vaddr = mmap(NULL, bar->info.size, PROT_READ | PROT_WRITE, MAP_SHARED,
				  v->dev, bar->info.offset);
		if (bar->vaddr == MAP_FAILED) {
			bar->vaddr = NULL;
			return vtd_fail(v, "BARs");
		}
	}
	return 0;
}

/* As vfio_pci_device_setup() does it, which is not for others. */
static int fill(struct vtd *v, struct vfio_pci_device *device)
{
	unsigned int i;

	device->fd = v->dev;
	device->config_space.argsz = sizeof(device->config_space);
	device->config_space.index = VFIO_PCI_CONFIG_REGION_INDEX;
	device->msix_info.argsz = sizeof(device->msix_info);
	device->msix_info.index = VFIO_PCI_MSIX_IRQ_INDEX;
	for (i = 0; i < ARRAY_SIZE(device->msi_eventfds); i++)
		device->msi_eventfds[i] = -1;
	if (ioctl(v->dev, VFIO_DEVICE_GET_REGION_INFO, &device->config_space) ||
	    ioctl(v->dev, VFIO_DEVICE_GET_IRQ_INFO, &device->msix_info))
		return vtd_fail(v, "regions and interrupts");
	return map_bars(v, device);
}

static void libvfio_stop(struct vtd *v)
{
	struct libvfio *lib = v->engine_state;
	unsigned int i;

	for (i = 0; i < PCI_STD_NUM_BARS; i++) {
		if (lib->device->bars[i].vaddr)
			munmap(lib->device->bars[i].vaddr, lib->device->bars[i].info.size);
	}
	for (i = 0; i < ARRAY_SIZE(lib->device->msi_eventfds); i++) {
		if (lib->device->msi_eventfds[i] >= 0)
			close(lib->device->msi_eventfds[i]);
	}
	vfio_pci_device_free(lib->device);
	free(lib);
}

/* The library ends the program where the device is not as it should be. */
static int libvfio_start(struct vtd *v)
{
	struct libvfio *lib = calloc(1, sizeof(*lib));
	struct dma_region *region;

	if (!lib)
		return vtd_fail(v, "memory");
	v->engine_state = lib;
	INIT_LIST_HEAD(&lib->iommu.dma_regions);
	lib->device = vfio_pci_device_alloc(v->bdf, &lib->iommu);
	if (fill(v, lib->device))
		return -1;
	region = &lib->device->driver.region;
	region->vaddr = host_of(v, ENGINE_PAGE);
	region->iova = gpa_of(ENGINE_PAGE);
	region->size = (LAST_PAGE - ENGINE_PAGE) * PG;
	list_add(&region->link, &lib->iommu.dma_regions);
	vfio_pci_driver_probe(lib->device);
	if (!lib->device->driver.ops) {
		snprintf(v->why, sizeof(v->why), "upstream's VFIO selftests do not know %s",
			 v->bdf);
		return 1;
	}
	vfio_pci_driver_init(lib->device);
	return 0;
}

static int libvfio_dma(struct vtd *v, bool to_memory, uint64_t iova)
{
	struct libvfio *lib = v->engine_state;
	uint64_t kept = gpa_of(LAST_PAGE);

	return vfio_pci_driver_memcpy(lib->device, to_memory ? kept : iova, to_memory ? iova : kept,
				      COPY) ? -EIO : 0;
}

const struct vtd_engine vtd_libvfio = {
	.name = "VFIO selftests",
	.does = "has it copy memory (a network card sends to itself)",
	.knows = libvfio_knows,
	.in_use = libvfio_in_use,
	.start = libvfio_start,
	.stop = libvfio_stop,
	.dma = libvfio_dma,
	.shows = ~0ULL,
};
