// SPDX-License-Identifier: GPL-2.0
/*
 * usage: hold DISK
 *
 * Has a disk for itself until it is killed, as who mounts it does.
 */
#include <err.h>
#include <fcntl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc != 2)
		errx(2, "usage: hold DISK");
	if (open(argv[1], O_RDONLY | O_EXCL) < 0)
		err(1, "%s", argv[1]);
	if (write(STDOUT_FILENO, "held\n", 5) != 5)
		return 1;
	pause();
	return 0;
}
