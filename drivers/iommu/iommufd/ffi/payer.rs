// SPDX-License-Identifier: GPL-2.0-only

//! Who pays for pinned pages, and how that is counted.
//!
//! All pinned pages are in their process's `pinned_vm`. Unless it may pin without a limit they are
//! also in its user's `locked_vm`, or, as VFIO has it, in the process's, both of which
//! `RLIMIT_MEMLOCK` limits.

use super::{
    context::AccountMode,
    pin::is_current, //
};
use core::ptr::NonNull;
use kernel::{
    bindings,
    current,
    error::to_result,
    mm::Mm,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        }, //
    },
    task::Task, //
};

/// Where pages are counted besides `pinned_vm`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nowhere: who has pinned them has CAP_IPC_LOCK, or they are no memory.
    None,
    /// With the user.
    User,
    /// With the process.
    Mm,
}

impl Mode {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::None, Self::User, Self::Mm];

    /// Who pays for what the current process pins.
    pub(crate) fn of_current(account: AccountMode) -> Self {
        // CAST: A small number.
        //
        // SAFETY: It may be called from any process.
        if unsafe { bindings::capable(bindings::CAP_IPC_LOCK as c_int) } {
            return Self::None;
        }
        match account {
            AccountMode::Mm => Self::Mm,
            AccountMode::User => Self::User,
        }
    }
}

/// A user, of whom a reference is held.
struct User(NonNull<bindings::user_struct>);

// SAFETY: Users may be counted from anywhere.
unsafe impl Send for User {}
// SAFETY: What changes of them is atomic.
unsafe impl Sync for User {}

impl User {
    fn current() -> Self {
        // SAFETY: It is about the current task, which keeps its user.
        let raw = unsafe { bindings::iommu_current_user() };
        // SAFETY: The current task keeps its user.
        unsafe { bindings::iommu_get_uid(raw) };
        // SAFETY: Each task has one.
        Self(unsafe { NonNull::new_unchecked(raw) })
    }

    fn locked_vm(&self) -> &Atomic<i64> {
        // SAFETY: The reference keeps the user; the field is an atomic number.
        unsafe { Atomic::from_ptr(&raw mut (*self.0.as_ptr()).locked_vm.counter) }
    }
}

impl Clone for User {
    fn clone(&self) -> Self {
        // SAFETY: The reference keeps the user.
        unsafe { bindings::iommu_get_uid(self.0.as_ptr()) };
        Self(self.0)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // SAFETY: This reference is not used again.
        unsafe { bindings::free_uid(self.0.as_ptr()) };
    }
}

/// A process that pays, and its user.
#[derive(Clone)]
pub(crate) struct Payer {
    leader: ARef<Task>,
    mm: ARef<Mm>,
    user: User,
}

impl Payer {
    /// The current process.
    ///
    /// # Errors
    ///
    /// `EFAULT`: it has no memory.
    pub(crate) fn current() -> Result<Self> {
        let task = current!();
        let mm: &Mm = task.mm().ok_or(EFAULT)?;
        Ok(Self {
            leader: task.group_leader().into(),
            mm: mm.into(),
            user: User::current(),
        })
    }

    /// Its memory.
    pub(crate) fn mm(&self) -> ARef<Mm> {
        self.mm.clone()
    }

    /// Whether it is not the current process that pays, or another user is to.
    pub(crate) fn is_other(&self, mode: Mode) -> bool {
        // SAFETY: It is about the current task.
        let user = unsafe { bindings::iommu_current_user() };
        // Without a limit they still count in the process's `pinned_vm`, and so do a user's.
        !is_current(&self.mm) || mode == Mode::User && self.user.0.as_ptr() != user
    }

    fn pinned_vm(&self) -> &Atomic<i64> {
        // SAFETY: The reference keeps the structure; the field is an atomic number.
        unsafe { Atomic::from_ptr(&raw mut (*self.mm.as_raw()).__bindgen_anon_1.pinned_vm.counter) }
    }

    /// Counts the process's own `locked_vm`. `None` when its memory is gone, and the number with
    /// it.
    fn count_mm(&self, npages: usize, more: bool) -> Option<Result> {
        let _kept = if is_current(&self.mm) {
            None
        } else {
            Some(self.mm.mmget_not_zero()?)
        };
        // SAFETY: The memory is there, and no lock of it is held here.
        Some(to_result(unsafe {
            let leader = self.leader.as_ptr();
            bindings::iommu_account_locked_vm(self.mm.as_raw(), npages, more, leader)
        }))
    }

    fn charge_user(&self, npages: i64) -> Result {
        // SAFETY: The reference keeps the task.
        let limit = unsafe { bindings::iommu_memlock_limit(self.leader.as_ptr()) };
        let locked = self.user.locked_vm();
        let mut old = locked.load(Relaxed);
        loop {
            let new = old.checked_add(npages).ok_or(ENOMEM)?;
            // CAST: The number is never negative.
            if new as u64 > limit as u64 {
                return Err(ENOMEM);
            }
            match locked.cmpxchg(old, new, Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => old = now,
            }
        }
    }

    /// Counts that many pages more. No lock of the process's memory may be held.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: the limit.
    pub(crate) fn charge(&self, mode: Mode, npages: usize) -> Result {
        if npages == 0 {
            return Ok(());
        }
        let count = i64::try_from(npages).map_err(|_| ENOMEM)?;
        match mode {
            Mode::None => (),
            Mode::User => self.charge_user(count)?,
            // A process that has ended, and whose file is mapped, is not charged for it any more.
            Mode::Mm => self.count_mm(npages, true).unwrap_or(Ok(()))?,
        }
        self.pinned_vm().add(count, Relaxed);
        Ok(())
    }

    /// Undoes [`Self::charge`].
    pub(crate) fn uncharge(&self, mode: Mode, npages: usize) {
        if npages == 0 {
            return;
        }
        // CAST: It was charged.
        let count = npages as i64;
        match mode {
            Mode::None => (),
            Mode::User => self.user.locked_vm().add(-count, Relaxed),
            Mode::Mm => {
                let gone = self.count_mm(npages, false);
                kernel::warn_on!(gone.is_some_and(|done| done.is_err()));
            }
        }
        self.pinned_vm().add(-count, Relaxed);
    }
}
