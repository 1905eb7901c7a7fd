// SPDX-License-Identifier: GPL-2.0
/*
 * The only process of a guest to which a device (QEMU's edu or pasid-dma) was assigned.
 * Does what the word do=WHAT of the kernel's command line says, tells of it on the second
 * serial port, a line for each result, and turns the machine off.
 *
 *   phys    DMA by physical addresses: no IOMMU, or one that passes DMA through
 *   vfio    DMA by IOVAs, through VFIO and this kernel's own /dev/iommu
 *   pasid   the same with a PASID
 *   ats     the same by the device's own cache of translations
 *   both    the same with edu and pasid-dma at once
 *   *-load  the same for ever, or (phys) until the device is gone, and when it is back
 *   root    the root of the first-stage tables of the device, as this kernel has set it
 */
#include <setjmp.h>
#include <stdarg.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <termios.h>

#include "vtd_pdma.h"

#define IOVA		0x7000000ULL
#define PAGE_A		DATA_PAGE
#define PAGE_B		(DATA_PAGE + 8)
#define MAP_PAGES	(DATA_PAGE + 1024)

static FILE *out;
/* How pasid-dma is to ask: PDMA_ATS. */
static uint32_t how;

__attribute__((format(printf, 2, 3)))
static bool result(bool good, const char *text, ...)
{
	va_list args;

	fprintf(out, "%s ", good ? "good" : "BAD");
	va_start(args, text);
	vfprintf(out, text, args);
	va_end(args);
	fputc('\n', out);
	return good;
}

/* What the device finds at @iova, or SENTINEL. */
static uint64_t device_reads(struct vtd *v, uint32_t pasid, uint64_t iova)
{
	if (vtd_is_edu(v))
		return dev_read(v, iova);
	if (pdma_run(v, PDMA_READ | how, pasid, iova, SENTINEL) != PDMA_DONE)
		return SENTINEL;
	return pdma_buffer(v);
}

static void device_writes(struct vtd *v, uint32_t pasid, uint64_t iova, uint64_t value)
{
	if (vtd_is_edu(v))
		dev_write(v, iova, value);
	else
		pdma_run(v, PDMA_WRITE | how, pasid, iova, value);
}

static bool make_memory(struct vtd *v)
{
	unsigned int page;
	void *at = mmap(NULL, MAP_PAGES * PG, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (at == MAP_FAILED)
		return false;
	v->mem = at;
	for (page = DATA_PAGE; page < MAP_PAGES; page++)
		*(uint64_t *)host_of(v, page) = TOKEN(page);
	return true;
}

/* That with @id; 0: whichever there is. */
static bool find_device(struct vtd *v, uint32_t id)
{
	int tries;

	vtd_none(v);
	for (tries = 0; tries < 100; tries++) {
		if (vtd_find(v, id ?: EDU_ID) || vtd_find(v, id ?: PDMA_ID))
			return true;
		usleep(100000);
	}
	return false;
}

/* Takes the device and gives it an IOAS of its own, for a PASID if there is one. */
static bool take(struct vtd *v, uint32_t pasid)
{
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind) };

	if (!make_memory(v))
		return false;
	v->iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	v->dev = vtd_open_device(v);
	bind.iommufd = v->iommufd;
	if (v->iommufd < 0 || v->dev < 0 || ioctl(v->dev, VFIO_DEVICE_BIND_IOMMUFD, &bind))
		return false;
	v->dev_id = bind.out_devid;
	if (vtd_alloc_ioas(v, &v->ioas) ||
	    vtd_map_gpa(v, v->ioas, STAGE_IOVA, vtd_stage(v), PG))
		return false;
	v->parent = v->ioas;
	if (pasid != NO_PASID &&
	    (vtd_alloc_hwpt(v, v->ioas, IOMMU_HWPT_ALLOC_PASID, NULL, 0, &v->parent) ||
	     vtd_attach(v, v->parent)))
		return false;
	return !vtd_attach_at(v, pasid, v->parent) && !vtd_map_bar(v);
}

/* Another page at the same IOVA; a translation that stayed behind is seen. */
static const char *round_of(struct vtd *v, uint32_t pasid, uint64_t iova, unsigned int salt)
{
	unsigned int a = PAGE_A + salt % 500, b = a + 8;

	if (vtd_map_gpa(v, v->ioas, iova, host_of(v, a), PG))
		return "map";
	if (device_reads(v, pasid, iova) != TOKEN(a))
		return "the device does not read what is mapped";
	device_writes(v, pasid, iova, ~TOKEN(a));
	if (*(uint64_t *)host_of(v, a) != ~TOKEN(a))
		return "what the device wrote did not arrive";
	if (vtd_unmap_gpa(v, v->ioas, iova, PG))
		return "unmap";
	device_writes(v, pasid, iova, 0xbadULL);
	if (*(uint64_t *)host_of(v, a) != ~TOKEN(a))
		return "the device writes where nothing is mapped any more";
	*(uint64_t *)host_of(v, a) = TOKEN(a);
	if (!refused(device_reads(v, pasid, iova)))
		return "the device reads where nothing is mapped any more";
	if (vtd_map_gpa(v, v->ioas, iova, host_of(v, b), PG))
		return "map another page";
	if (device_reads(v, pasid, iova) != TOKEN(b))
		return "the device does not read the page that is mapped now";
	return vtd_unmap_gpa(v, v->ioas, iova, PG) ? "unmap the other page" : NULL;
}

/* 2 MiB in one mapping, page by page; none of it can be read afterwards. */
static const char *large_round(struct vtd *v, uint32_t pasid)
{
	unsigned int page;

	if (vtd_map_gpa(v, v->ioas, IOVA, v->mem + DATA_PAGE * PG, MIB2))
		return "map 2 MiB";
	for (page = 0; page < 512; page += 37) {
		if (device_reads(v, pasid, IOVA + page * PG) !=
		    *(uint64_t *)(v->mem + (DATA_PAGE + page) * PG))
			return "the device does not read what is mapped";
	}
	if (vtd_unmap_gpa(v, v->ioas, IOVA, MIB2))
		return "unmap 2 MiB";
	for (page = 0; page < 512; page += 37) {
		if (!refused(device_reads(v, pasid, IOVA + page * PG)))
			return "the device reads where nothing is mapped any more";
	}
	return NULL;
}

static bool rounds(struct vtd *v, uint32_t pasid, unsigned int count)
{
	const char *why = NULL;
	unsigned int i;

	for (i = 0; !why && i < count; i++)
		why = round_of(v, pasid, IOVA + (i % 3) * PG, i);
	if (!why)
		why = large_round(v, pasid);
	return result(!why, "map, DMA, unmap, map another page: %s", why ?: "all bytes right");
}

static void do_vfio(uint32_t id, uint32_t pasid, bool load)
{
	struct vtd v;
	const char *why = NULL;
	unsigned int i;

	if (!result(find_device(&v, id), "the device is there"))
		return;
	errno = 0;
	if (!result(take(&v, pasid), "VFIO and /dev/iommu take it (%s)", strerror(errno)))
		return;
	if (!rounds(&v, pasid, 6) || !load)
		return vtd_release(&v);
	for (i = 0; !why; i++) {
		/* Again and again: whoever reads it sees that it goes on. */
		if (i % 10 == 0)
			fputs("RUNS\n", out);
		why = round_of(&v, pasid, IOVA + (i % 5) * PG, i);
	}
	result(false, "under load: %s", why);
}

static void do_both(void)
{
	pid_t other = fork();

	do_vfio(other ? EDU_ID : PDMA_ID, NO_PASID, false);
	if (!other)
		_exit(0);
	waitpid(other, NULL, 0);
}

static uint64_t physical(void *at)
{
	uint64_t entry = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY);

	if (fd < 0 || pread(fd, &entry, 8, (uintptr_t)at / PG * 8) != 8)
		entry = 0;
	close(fd);
	return (entry & ((1ULL << 55) - 1)) * PG;
}

/* Its registers without VFIO, and whether it may do DMA. */
static bool map_registers(struct vtd *v)
{
	char path[128];
	uint16_t command = 0x6;
	int fd;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/enable", v->bdf);
	sysfs_write(path, "1");
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/config", v->bdf);
	fd = open(path, O_RDWR);
	if (fd < 0 || pwrite(fd, &command, 2, 4) != 2)
		return false;
	close(fd);
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource0", v->bdf);
	fd = open(path, O_RDWR | O_SYNC);
	v->bar = mmap(NULL, PG, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return v->bar != MAP_FAILED;
}

static const char *phys_round(struct vtd *v, unsigned int salt)
{
	uint64_t stage = physical(vtd_stage(v));
	unsigned int page = PAGE_A + salt % 500;
	uint64_t *at = host_of(v, page);

	if (*(uint32_t *)v->bar == UINT32_MAX)
		return "the device does not answer";
	if (!stage || !physical(at))
		return "no physical address is known";
	if (dev_read_by(v, stage, physical(at)) != TOKEN(page))
		return "the device does not read what is there";
	dev_write_by(v, stage, physical(at), ~TOKEN(page));
	if (*at != ~TOKEN(page))
		return "what the device wrote did not arrive";
	*at = TOKEN(page);
	return NULL;
}

/* Registers that are gone are a SIGBUS. */
static sigjmp_buf no_registers;

static void on_bus_error(int signal)
{
	siglongjmp(no_registers, signal);
}

static bool gone(const struct vtd *v)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s", v->bdf);
	return access(path, F_OK) != 0;
}

static void do_phys(bool load)
{
	static struct vtd v;
	const char *volatile why;
	volatile unsigned int i;

	signal(SIGBUS, on_bus_error);
again:
	why = NULL;
	if (!result(find_device(&v, 0), "the device is there") ||
	    !result(make_memory(&v) && map_registers(&v), "its registers"))
		return;
	for (i = 0; !why && i < 40; i++)
		why = phys_round(&v, i);
	if (!result(!why, "DMA by physical addresses: %s", why ?: "all bytes right") || !load)
		return;
	why = "the registers are gone";
	if (!sigsetjmp(no_registers, 1)) {
		do {
			if (i++ % 100 == 0)
				fputs("RUNS\n", out);
			why = phys_round(&v, i);
		} while (!why);
	}
	/* It may have been unplugged, which the kernel learns of in its time. */
	for (i = 0; i < 100 && !gone(&v); i++)
		usleep(100000);
	if (!result(gone(&v), "under load: %s", gone(&v) ? "the device left" : why))
		return;
	fputs("GONE\n", out);
	goto again;
}

static void do_root(void)
{
	struct vtd v;
	uint64_t word[3] = {};

	if (result(find_device(&v, 0), "the device is there") &&
	    result(take(&v, NO_PASID), "VFIO and /dev/iommu take it") &&
	    result(vtd_pasid_entry(&v, word), "it has a PASID entry"))
		fprintf(out, "ROOT %#llx\nRUNS\n", (unsigned long long)(word[2] & FS_ADDR));
	for (;;)
		pause();
}

int main(void)
{
	char words[2048] = "", *what;
	struct termios raw;
	FILE *f;

	mount("proc", "/proc", "proc", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
	out = fopen("/dev/ttyS1", "w");
	if (!out)
		out = stderr;
	if (!tcgetattr(fileno(out), &raw)) {
		cfmakeraw(&raw);
		tcsetattr(fileno(out), TCSANOW, &raw);
	}
	setvbuf(out, NULL, _IOLBF, 0);
	f = fopen("/proc/cmdline", "r");
	if (f && fgets(words, sizeof(words), f))
		fclose(f);
	what = strstr(words, "do=");
	what = what ? strtok(what + 3, " \n") : "";
	fprintf(out, "BEGIN %s\n", what);
	if (!strcmp(what, "phys"))
		do_phys(false);
	else if (!strcmp(what, "phys-load"))
		do_phys(true);
	else if (!strcmp(what, "vfio"))
		do_vfio(0, NO_PASID, false);
	else if (!strcmp(what, "vfio-load"))
		do_vfio(0, NO_PASID, true);
	else if (!strcmp(what, "pasid"))
		do_vfio(PDMA_ID, 5, false);
	else if (!strcmp(what, "ats"))
		how = PDMA_ATS, do_vfio(PDMA_ID, NO_PASID, false);
	else if (!strcmp(what, "both"))
		do_both();
	else if (!strcmp(what, "root"))
		do_root();
	else
		result(false, "unknown: do=%s", what);
	fputs("END\n", out);
	fflush(out);
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}
