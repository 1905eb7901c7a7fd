// SPDX-License-Identifier: GPL-2.0-only

//! What hwpts begin with, where `iommufd_driver` looks.

use super::shared::HwptHead;
use crate::hwpt::Hwpt;
use core::mem::offset_of;
use kernel::static_assert;

static_assert!(Hwpt::DOMAIN == offset_of!(HwptHead, domain));
static_assert!(Hwpt::PARENT == offset_of!(HwptHead, parent));
static_assert!(Hwpt::PRESENT_SW_MSI == offset_of!(HwptHead, present));
