// SPDX-License-Identifier: GPL-2.0-only
/*
 * Takes a device from its driver for tests, when it is nobody's and who runs them agrees,
 * and gives it back. The tests are a process of their own: whatever becomes of that, this
 * one is there to give the device back, unless it is killed with SIGKILL.
 */
#include "vtd_engine.h"

#include "kselftest.h"

/* What the device was before. */
static struct {
	struct vtd v;
	char driver[64], override[64];
} taken;

/* The last part of what a link of the device points to, or "". */
static const char *link_of(const char *bdf, const char *name, char *to, size_t room)
{
	char path[300], target[PATH_MAX];
	ssize_t n;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", bdf, name);
	n = readlink(path, target, sizeof(target) - 1);
	target[n > 0 ? n : 0] = 0;
	snprintf(to, room, "%s", strrchr(target, '/') ? strrchr(target, '/') + 1 : "");
	return to;
}

/* 0 where the IOMMU of the device is no VT-d. */
static uint64_t ecap_of(const char *bdf)
{
	unsigned long long value = 0;
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu/intel-iommu/ecap", bdf);
	f = fopen(path, "r");
	if (f) {
		if (fscanf(f, "%llx", &value) != 1)
			value = 0;
		fclose(f);
	}
	return value;
}

/* Whether another device of the group has a driver: no device of it can be had then. */
static bool shared(struct vtd *v)
{
	char path[128], other[32], driver[64], group[16];
	struct dirent *e;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group/devices", v->bdf);
	dir = opendir(path);
	while (dir && !found && (e = readdir(dir))) {
		snprintf(other, sizeof(other), "%.31s", e->d_name);
		/* Bridges do no DMA of their own. */
		if (other[0] == '.' || !strcmp(other, v->bdf) ||
		    sysfs_hex(other, "class") >> 16 == 0x06)
			continue;
		link_of(other, "driver", driver, sizeof(driver));
		found = driver[0] && strcmp(driver, "vfio-pci");
		if (found)
			snprintf(v->why, sizeof(v->why),
				 "%s shares IOMMU group %s with %s, which %s has", v->bdf,
				 link_of(v->bdf, "iommu_group", group, sizeof(group)), other,
				 driver);
	}
	if (dir)
		closedir(dir);
	return found;
}

static bool because(struct vtd *v, const char *why)
{
	snprintf(v->why, sizeof(v->why), "%s: %s", v->bdf, why);
	return false;
}

/* Whether tests may have it; v->why says why not. Nothing is changed. */
static bool free_for_tests(struct vtd *v, const struct vtd_engine *engine)
{
	uint64_t ecap = ecap_of(v->bdf);
	char path[128];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s", v->bdf);
	if (access(path, F_OK))
		return because(v, "there is no such device");
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", v->bdf);
	if (access(path, F_OK))
		return because(v, "no IOMMU; is VT-d on in the firmware, and intel_iommu=on?");
	if (!ecap)
		return because(v, "its IOMMU is no VT-d");
	if (!(ecap & ECAP_SMTS))
		return because(v, "its VT-d unit has no scalable mode");
	if (!(ecap & ECAP_NEST) || !(ecap & ECAP_FLTS) || !(ecap & ECAP_SLTS))
		return because(v, "its VT-d unit does not nest");
	if (vtd_legacy_by_request())
		return because(v, "VT-d is in legacy mode, as the command line has sm_off");
	return !shared(v) && !(engine && engine->in_use && engine->in_use(v));
}

static void show(struct vtd *v, const struct vtd_engine *engine)
{
	char driver[64], group[16];
	bool is_free = free_for_tests(v, engine);

	link_of(v->bdf, "driver", driver, sizeof(driver));
	link_of(v->bdf, "iommu_group", group, sizeof(group));
	fprintf(stderr, "%s  %04x:%04x  group %s  driver %s  %s: %s\n", v->bdf,
		sysfs_hex(v->bdf, "vendor"), sysfs_hex(v->bdf, "device"),
		group[0] ? group : "none", driver[0] ? driver : "none", engine->name,
		is_free ? "free" : v->why);
}

/*
 * The first free device of the engine that comes first, in @v. With @all each device that
 * has an engine is shown.
 */
static const struct vtd_engine *search(struct vtd *v, bool all)
{
	const struct vtd_engine *best = NULL;
	struct dirent **names;
	struct vtd at = {};
	int i, n;

	n = scandir("/sys/bus/pci/devices", &names, NULL, alphasort);
	for (i = 0; i < n; i++) {
		const struct vtd_engine *engine = vtd_engine_for(names[i]->d_name);

		snprintf(at.bdf, sizeof(at.bdf), "%.31s", names[i]->d_name);
		free(names[i]);
		if (!engine)
			continue;
		if (all)
			show(&at, engine);
		if (free_for_tests(&at, engine) && vtd_comes_before(engine, best)) {
			best = engine;
			*v = at;
		}
	}
	if (n >= 0)
		free(names);
	return best;
}

static void announce(FILE *to, const char *program, const struct vtd_engine *engine)
{
	char group[16];

	fprintf(to,
		"%s: takes %s (%04x:%04x, IOMMU group %s) from %s, gives it to vfio-pci, which resets it,\n"
		"attaches it to tables of its own, %s, and gives it back.\n",
		program, taken.v.bdf, sysfs_hex(taken.v.bdf, "vendor"),
		sysfs_hex(taken.v.bdf, "device"),
		link_of(taken.v.bdf, "iommu_group", group, sizeof(group)),
		taken.driver[0] ? taken.driver : "no driver",
		engine ? engine->does : "has it do no DMA, as no way is known");
}

/* Says what will be done, and whether that is wanted. */
static bool agreed(const char *program, const struct vtd_engine *engine, bool yes)
{
	char answer[8] = "";
	FILE *terminal;

	if (yes) {
		announce(stderr, program, engine);
		return true;
	}
	terminal = fopen("/dev/tty", "r+");
	if (!terminal)
		return because(&taken.v, "not taken; say --yes");
	announce(terminal, program, engine);
	fprintf(terminal, "Go on? [y/N] ");
	fflush(terminal);
	if (!fgets(answer, sizeof(answer), terminal))
		answer[0] = 0;
	fclose(terminal);
	return (answer[0] | 0x20) == 'y' ? true : because(&taken.v, "not taken");
}

static void set(const char *file, const char *text)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", taken.v.bdf, file);
	sysfs_write(path, text);
}

static void give_back(void)
{
	char path[160];

	/* Waits until all files of the device are closed. */
	set("driver/unbind", taken.v.bdf);
	set("driver_override", taken.override);
	if (!taken.driver[0])
		return;
	snprintf(path, sizeof(path), "/sys/bus/pci/drivers/%s/bind", taken.driver);
	if (sysfs_write(path, taken.v.bdf))
		fprintf(stderr, "%s did not take %s back: echo %s >%s\n", taken.driver,
			taken.v.bdf, taken.v.bdf, path);
}

static bool take(void)
{
	char driver[64], path[128];
	FILE *f;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver_override", taken.v.bdf);
	f = fopen(path, "r");
	if (!f || !fgets(taken.override, sizeof(taken.override), f))
		taken.override[0] = 0;
	if (f)
		fclose(f);
	/* The kernel's word for none; an empty line takes it away. */
	if (!strncmp(taken.override, "(null)", 6))
		snprintf(taken.override, sizeof(taken.override), "\n");
	set("driver/unbind", taken.v.bdf);
	set("driver_override", "vfio-pci");
	sysfs_write("/sys/bus/pci/drivers_probe", taken.v.bdf);
	if (!strcmp(link_of(taken.v.bdf, "driver", driver, sizeof(driver)), "vfio-pci"))
		return true;
	give_back();
	return because(&taken.v, "vfio-pci does not want it; is there one, and are you root?");
}

/* From now on what would end this program waits for watch(). */
static void hold_signals(sigset_t *held, sigset_t *before)
{
	static const int ends[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGCHLD };
	unsigned int i;

	sigemptyset(held);
	for (i = 0; i < ARRAY_SIZE(ends); i++)
		sigaddset(held, ends[i]);
	sigprocmask(SIG_BLOCK, held, before);
}

/* The tests, in a process that goes with this one. What they return, or 128 and a signal. */
static int watch(int argc, char **argv, int (*tests)(int argc, char **argv),
		 const sigset_t *held, const sigset_t *before)
{
	int status, which;
	pid_t pid;

	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		sigprocmask(SIG_SETMASK, before, NULL);
		exit(tests(argc, argv));
	}
	while (pid > 0 && waitpid(pid, &status, WNOHANG) != pid) {
		if (!sigwait(held, &which) && which != SIGCHLD)
			kill(pid, SIGKILL);
	}
	if (pid < 0)
		return KSFT_FAIL;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Takes the word out of the command line. Whether it was there. */
static bool word(int *argc, char **argv, const char *text)
{
	int i;

	for (i = 1; i < *argc; i++) {
		if (strcmp(argv[i], text))
			continue;
		memmove(&argv[i], &argv[i + 1], (*argc - i) * sizeof(*argv));
		--*argc;
		return true;
	}
	return false;
}

static int pass_over(void)
{
	fprintf(stderr, "%s\n", taken.v.why);
	printf("TAP version 13\n1..0 # SKIP %s\n", taken.v.why);
	return KSFT_SKIP;
}

int vtd_take_and_run(int argc, char **argv, int (*tests)(int argc, char **argv))
{
	bool yes = word(&argc, argv, "--yes") || getenv("VTD_YES");
	const char *given = getenv("VTD_DEVICE");
	const struct vtd_engine *engine;
	sigset_t held, before;
	int rc;

	if (word(&argc, argv, "--list")) {
		search(&taken.v, true);
		return 0;
	}
	if (given) {
		snprintf(taken.v.bdf, sizeof(taken.v.bdf), "%.31s", given);
		engine = vtd_engine_for(given);
		if (!free_for_tests(&taken.v, engine))
			return pass_over();
	} else {
		engine = search(&taken.v, false);
		if (!engine) {
			search(&taken.v, true);
			snprintf(taken.v.why, sizeof(taken.v.why),
				 "no free device that can do DMA for tests; VTD_DEVICE=0000:01:00.0 names one");
			return pass_over();
		}
		setenv("VTD_DEVICE", taken.v.bdf, 1);
	}
	link_of(taken.v.bdf, "driver", taken.driver, sizeof(taken.driver));
	/* Somebody has given it away already. */
	if (!strcmp(taken.driver, "vfio-pci"))
		return tests(argc, argv);
	if (!agreed(argv[0], engine, yes))
		return pass_over();
	hold_signals(&held, &before);
	if (!take())
		return pass_over();
	rc = watch(argc, argv, tests, &held, &before);
	give_back();
	return rc;
}
