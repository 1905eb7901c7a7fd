// SPDX-License-Identifier: GPL-2.0-only

//! `IOMMU_IOAS_CHANGE_PROCESS`: a new process takes over what an old one pinned.
//!
//! All or nothing: the new process is charged for everything first, and only if its limits allow
//! that the old one's charges are given back.

use crate::{
    ffi::{
        all_ioas::AllIoas,
        handlers::{
            self,
            end_of,
            uapi::{
                self,
                IoasChangeProcess, //
            }, //
        },
        payer::{
            Mode,
            Payer, //
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
        let all = AllIoas::lock(ucmd.ctx())?;
        check(&all)?;
        let payer = Payer::current()?;
        let charges = count(&all)?;
        if let Err(e) = charge(&payer, &charges) {
            all.each(|pages| {
                if let Some(pages) = pages {
                    pages.restore_charged();
                }
                Ok(())
            })?;
            return Err(e);
        }
        all.each(|pages| {
            pages.ok_or(EBUSY)?.hand_over(payer.clone());
            Ok(())
        })
    }
}

/// Only what comes from files can be pinned again by another process.
///
/// # Errors
///
/// `EBUSY` while a mapping is being made, `EINVAL` for memory of a process.
fn check(all: &AllIoas<'_>) -> Result {
    all.each(|pages| {
        if pages.ok_or(EBUSY)?.is_file() {
            Ok(())
        } else {
            Err(EINVAL)
        }
    })
}

/// Counts the pages that others pay for, by [`Mode::ALL`]; each once, however often it is mapped.
fn count(all: &AllIoas<'_>) -> Result<[usize; 3]> {
    let mut charges = [0; 3];
    all.each(|pages| {
        let pages = pages.ok_or(EBUSY)?;
        if pages.charged_to_other() {
            let (mode, charged) = (pages.mode(), pages.take_charged());
            // CAST: Its place in `Mode::ALL`.
            if let Some(sum) = charges.get_mut(mode as usize) {
                *sum += charged;
            }
        }
        Ok(())
    })?;
    Ok(charges)
}

/// Charges a process, for all modes or for none.
fn charge(payer: &Payer, charges: &[usize; 3]) -> Result {
    let all = || Mode::ALL.into_iter().zip(charges.iter().copied());
    for (n, (mode, npages)) in all().enumerate() {
        if let Err(e) = payer.charge(mode, npages) {
            for (mode, npages) in all().take(n) {
                payer.uncharge(mode, npages);
            }
            return Err(e);
        }
    }
    Ok(())
}
