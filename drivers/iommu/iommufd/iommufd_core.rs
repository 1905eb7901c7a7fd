// SPDX-License-Identifier: GPL-2.0-only

//! /dev/iommu: the user API to I/O page tables.
