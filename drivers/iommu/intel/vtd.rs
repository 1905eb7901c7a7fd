// SPDX-License-Identifier: GPL-2.0

//! VT-d: PASID entries, cache invalidation and nested translation.
