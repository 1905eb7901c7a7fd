// SPDX-License-Identifier: GPL-2.0-only

//! `IOMMU_IOAS_CHANGE_PROCESS`: a new process takes over what an old one pinned.
//!
//! All or nothing: the new process is charged for everything first, and only if its limits allow
//! that the old one's charges are given back.

use crate::{
    ffi::{
        charge::{
            charge_current,
            AllIoas,
            MODES, //
        },
        handlers::{
            self,
            end_of,
            uapi::{
                self,
                IoasChangeProcess, //
            }, //
        },
        ucmd::Ucmd, //
    },
    ioctl::Ioctl, //
};
use kernel::prelude::*;

impl Ioctl for IoasChangeProcess {
    const NUMBER: u32 = handlers::number(uapi::CMD_IOAS_CHANGE_PROCESS);
    const MIN_SIZE: usize = end_of!(IoasChangeProcess, __reserved);

    type Answer<'a> = ();

    fn run<'a>(ucmd: &mut Ucmd<'a, Self>) -> Result {
        if ucmd.__reserved != 0 {
            return Err(EOPNOTSUPP);
        }
        let mut all = AllIoas::lock(ucmd.ctx())?;
        check(&mut all)?;
        let charges = count(&mut all)?;
        if let Err(e) = charge(&charges) {
            all.each(|pages| {
                if let Some(pages) = pages {
                    pages.restore_charged();
                }
                Ok(())
            })?;
            return Err(e);
        }
        hand_over(&mut all)
    }
}

/// Only what comes from files can be pinned again by another process.
///
/// # Errors
///
/// `EBUSY` while a mapping is being made, `EINVAL` for memory of a process.
fn check(all: &mut AllIoas<'_>) -> Result {
    all.each(|pages| {
        if pages.ok_or(EBUSY)?.of_file() {
            Ok(())
        } else {
            Err(EINVAL)
        }
    })
}

/// Counts the pages that others pay for, by mode; each once, however often it is mapped.
fn count(all: &mut AllIoas<'_>) -> Result<[usize; MODES]> {
    let mut charges = [0; MODES];
    all.each(|pages| {
        let pages = pages.ok_or(EBUSY)?;
        if pages.charged_to_other() {
            let charged = pages.take_charged();
            if let Some(sum) = charges.get_mut(pages.mode()) {
                *sum += charged;
            }
        }
        Ok(())
    })?;
    Ok(charges)
}

/// Charges the current process, for all modes or for none.
fn charge(charges: &[usize; MODES]) -> Result {
    let wanted = || charges.iter().copied().enumerate().filter(|&(_, n)| n != 0);
    for (mode, npages) in wanted() {
        if let Err(e) = charge_current(mode, npages, true) {
            for (done, npages) in wanted().take_while(|&(done, _)| done < mode) {
                // Giving back what was just charged has no way to fail.
                kernel::warn_on!(charge_current(done, npages, false).is_err());
            }
            return Err(e);
        }
    }
    Ok(())
}

/// Gives the old charges back and makes the current process the one that pays.
fn hand_over(all: &mut AllIoas<'_>) -> Result {
    let mut result = Ok(());
    all.each(|pages| {
        let pages = pages.ok_or(EBUSY)?;
        if pages.charged_to_other() {
            let uncharged = pages.uncharge();
            if kernel::warn_on!(uncharged.is_err()) {
                result = uncharged;
            }
        }
        pages.adopt();
        Ok(())
    })?;
    result
}
