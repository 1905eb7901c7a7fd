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
 *   phys-at-times  the same (phys), with pauses; the device is enabled after each
 *   root    the root of the first-stage tables of the device, as this kernel has set it
 *   disk    the disk (QEMU's nvme), by its own driver of this kernel
 *   card    a network card (QEMU's igb), by its own driver, with who runs the guest
 *   demo    the disk, and what `make run CLIENT=qemu` wants to know
 */
#include <arpa/inet.h>
#include <net/if.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <termios.h>

#include "physical.h"
#include "vtd_engine.h"
#include "vtd_pdma.h"

#define NVME_ID		0x00101b36U
#define DISK		"/dev/nvme0n1"
#define DISK_SIZE	0x40000U
#define NVME_ACQ	0x30	/* where the admin completion queue is */
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
		if (vtd_find(v, id ?: EDU_ID) || vtd_find(v, id ?: PDMA_ID)) {
			v->engine = vtd_is_edu(v) ? &vtd_edu : &vtd_pasid_dma;
			return true;
		}
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
	if (!refused(v, device_reads(v, pasid, iova)))
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
		if (!refused(v, device_reads(v, pasid, IOVA + page * PG)))
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

static void do_phys_at_times(void)
{
	const char *why = NULL;
	unsigned int i;
	struct vtd v;

	if (!result(find_device(&v, 0) && make_memory(&v), "the device is there"))
		return;
	while (!why) {
		if (!map_registers(&v))
			why = "its registers";
		for (i = 0; !why && i < 20; i++)
			why = phys_round(&v, i);
		munmap(v.bar, PG);
		fputs("RUNS\n", out);
		sleep(3);
	}
	result(false, "at times: %s", why);
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

/* Writes to the disk from @from, reads it back to @to. */
static const char *disk_part(int fd, uint64_t *from, uint64_t *to, unsigned int at,
			     unsigned int size, uint64_t salt)
{
	unsigned int i;

	for (i = 0; i < size / 8; i++) {
		from[i] = (salt << 32 | (at + i)) * 0x9e3779b97f4a7c15ULL;
		to[i] = ~from[i];
	}
	if (pwrite(fd, from, size, at) != size)
		return "it cannot be written to";
	if (pread(fd, to, size, at) != size)
		return "it cannot be read";
	return memcmp(from, to, size) ? "it does not give what was written to it" : NULL;
}

/* A part of the disk of one's own, in pieces of 4 to 32 KiB, always by other pages. */
static const char *disk_rounds(unsigned int part)
{
	unsigned int room = DISK_SIZE / 4, size, i;
	int fd = open(DISK, O_RDWR | O_DIRECT);
	const char *why = fd < 0 ? "it cannot be opened" : NULL;
	unsigned char *pages = mmap(NULL, 2 * MIB2, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	for (i = 0; !why && i < 64; i++) {
		size = (1 + i % 8) * PG;
		why = disk_part(fd, (void *)(pages + i * 7 % 64 * 8 * PG),
				(void *)(pages + MIB2 + i * 5 % 64 * 8 * PG),
				part * room + i % 3 * PG, size, i);
	}
	close(fd);
	return why;
}

/* @what is done by four at once, each a part of it. */
static bool at_once(const char *what, const char *(*part)(unsigned int number))
{
	unsigned int number;
	const char *why;
	bool good = true;
	int status;

	for (number = 0; number < 4; number++) {
		if (fork())
			continue;
		why = part(number);
		if (why)
			result(false, "%s: %s", what, why);
		_exit(why != NULL);
	}
	for (number = 0; number < 4; number++)
		good &= wait(&status) > 0 && !status;
	return result(good, "%s", what);
}

/* The driver may still be at it. */
static bool find_disk(struct vtd *v)
{
	int tries;

	for (tries = 0; tries < 100 && access(DISK, F_OK); tries++)
		usleep(100000);
	return result(tries < 100, "there is a disk") && find_device(v, NVME_ID);
}

static void do_disk(void)
{
	struct vtd v;

	if (find_disk(&v))
		at_once("the disk, 256 pieces of 4 to 32 KiB written and read", disk_rounds);
}

/* The card has 10.0.0.2; not 0: something failed. */
static int card_up(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	struct ifreq request = { .ifr_name = "eth0" };
	int fd = socket(AF_INET, SOCK_DGRAM, 0), rc;

	address.sin_addr.s_addr = inet_addr("10.0.0.2");
	memcpy(&request.ifr_addr, &address, sizeof(address));
	rc = ioctl(fd, SIOCSIFADDR, &request);
	address.sin_addr.s_addr = inet_addr("255.255.255.0");
	memcpy(&request.ifr_netmask, &address, sizeof(address));
	rc = rc ?: ioctl(fd, SIOCSIFNETMASK, &request);
	request.ifr_flags = IFF_UP;
	rc = rc ?: ioctl(fd, SIOCSIFFLAGS, &request);
	close(fd);
	return rc;
}

/* Somebody at 10.0.0.1 who says what he is told. */
static int connect_echo(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(7) };
	struct timeval patience = { .tv_sec = 20 };
	int tries, fd = -1;

	address.sin_addr.s_addr = inet_addr("10.0.0.1");
	for (tries = 0; tries < 100; tries++) {
		fd = socket(AF_INET, SOCK_STREAM, 0);
		if (!connect(fd, (void *)&address, sizeof(address)))
			break;
		close(fd);
		fd = -1;
		usleep(200000);
	}
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return fd;
}

/* Says pieces of 16 KiB, and listens. */
static const char *echo_rounds(unsigned int part)
{
	static uint64_t said[2048], heard[2048];
	unsigned int i, round, got;
	int fd = connect_echo();
	ssize_t n;

	if (fd < 0)
		return "nobody is there";
	for (round = 0; round < 32; round++) {
		for (i = 0; i < 2048; i++)
			said[i] = ((uint64_t)part << 40 | round << 16 | i) * 0x9e3779b97f4a7c15ULL;
		if (write(fd, said, sizeof(said)) != sizeof(said))
			return "what was said was not taken";
		for (got = 0; got < sizeof(heard); got += n) {
			n = read(fd, (char *)heard + got, sizeof(heard) - got);
			if (n <= 0)
				return "nothing comes back";
		}
		if (memcmp(said, heard, sizeof(said)))
			return "what comes back is not what was said";
	}
	close(fd);
	return NULL;
}

static void do_card(void)
{
	if (result(!card_up(), "the card is there (%s)", strerror(errno)))
		at_once("the card, 128 pieces of 16 KiB sent and had back", echo_rounds);
}

/* Lines of @path that have @word, each behind @name. */
static void tell_lines(const char *name, const char *path, const char *word)
{
	char line[1024];
	FILE *f = fopen(path, "r");

	while (f && fgets(line, sizeof(line), f)) {
		if (strstr(line, word))
			fprintf(out, "%s %s", name, strstr(line, word));
	}
	if (f)
		fclose(f);
}

static void do_demo(void)
{
	uint64_t word[3] = {}, sum = 0, *data;
	unsigned int i;
	struct vtd v;
	int fd;

	if (!find_disk(&v) || !result(vtd_pasid_entry(&v, word), "it has a PASID entry") ||
	    !result(map_registers(&v), "its registers"))
		return;
	fprintf(out, "DISK %s\nROOT %#llx\nQUEUE %#llx\n", v.bdf,
		(unsigned long long)(word[2] & FS_ADDR),
		(unsigned long long)*(volatile uint64_t *)(v.bar + NVME_ACQ));
	fd = open(DISK, O_RDONLY | O_DIRECT);
	data = mmap(NULL, DISK_SIZE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	for (i = 0; i < DISK_SIZE; i += PG) {
		if (pread(fd, data + i / 8, PG, i) != (ssize_t)PG)
			break;
	}
	close(fd);
	for (i = 0; i < DISK_SIZE / 8; i++)
		sum = sum * 31 + data[i];
	fprintf(out, "SUM %#llx\n", (unsigned long long)sum);
	tell_lines("UNMAP", "/sys/kernel/tracing/trace", "iova=");
	fputs("RUNS\n", out);
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
	mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, NULL);
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
	else if (!strcmp(what, "phys-at-times"))
		do_phys_at_times();
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
	else if (!strcmp(what, "disk"))
		do_disk();
	else if (!strcmp(what, "card"))
		do_card();
	else if (!strcmp(what, "demo"))
		do_demo();
	else
		result(false, "unknown: do=%s", what);
	fputs("END\n", out);
	fflush(out);
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}
