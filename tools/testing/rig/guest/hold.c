// SPDX-License-Identifier: GPL-2.0
/*
 * usage: hold DISK
 *        hold vfio DEVICE
 *
 * Has a disk for itself until it is killed, as who mounts it does, or a device of
 * VFIO's, as who is about to attach it.
 */
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/vfio.h>

/* The device, whose DMA nobody else decides on any more. */
static void hold_vfio(const char *device)
{
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind) };
	char path[300];
	struct dirent *e;
	DIR *dir;
	int fd;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vfio-dev", device);
	dir = opendir(path);
	while (dir && (e = readdir(dir)) && strncmp(e->d_name, "vfio", 4))
		;
	if (!dir || !e)
		errx(1, "%s: vfio-pci does not have it", device);
	snprintf(path, sizeof(path), "/dev/vfio/devices/%s", e->d_name);
	fd = open(path, O_RDWR);
	if (fd < 0)
		err(1, "%s", path);
	bind.iommufd = open("/dev/iommu", O_RDWR);
	if (bind.iommufd < 0)
		err(1, "/dev/iommu");
	if (ioctl(fd, VFIO_DEVICE_BIND_IOMMUFD, &bind))
		err(1, "VFIO_DEVICE_BIND_IOMMUFD");
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "vfio"))
		hold_vfio(argv[2]);
	else if (argc != 2)
		errx(2, "usage: hold DISK | hold vfio DEVICE");
	else if (open(argv[1], O_RDONLY | O_EXCL) < 0)
		err(1, "%s", argv[1]);
	if (write(STDOUT_FILENO, "held\n", 5) != 5)
		return 1;
	pause();
	return 0;
}
