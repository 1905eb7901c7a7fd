/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What exports.c calls in ffi/exports.rs, and what ffi/device.rs reads there.
 */
#ifndef __IOMMUFD_EXPORTS_H
#define __IOMMUFD_EXPORTS_H

#include <linux/types.h>

int iommufd_rust_init(void);
void iommufd_rust_exit(void);

extern bool iommufd_allow_unsafe_interrupts;

#endif
