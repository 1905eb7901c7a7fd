/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What exports.c calls in ffi/exports.rs.
 */
#ifndef __IOMMUFD_EXPORTS_H
#define __IOMMUFD_EXPORTS_H

int iommufd_rust_init(void);
void iommufd_rust_exit(void);

#endif
