// SPDX-License-Identifier: GPL-2.0-only

//! Staying on a processor, and leaving it to others.

use kernel::{
    bindings,
    prelude::*,
    types::NotThreadSafe, //
};

/// The task that made this is not preempted, and must not sleep, until it is dropped.
///
/// # Invariants
///
/// The task has called `preempt_disable()` once for it.
#[must_use]
pub(crate) struct NoPreempt(NotThreadSafe);

impl NoPreempt {
    /// From here on.
    #[inline]
    pub(crate) fn new() -> Self {
        // SAFETY: No requirements.
        unsafe { bindings::vtd_preempt_disable() };
        // INVARIANT: Called just now.
        Self(NotThreadSafe)
    }
}

impl Drop for NoPreempt {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the invariant there is a call to be undone; it is this task's, as this is not
        // sent to another.
        unsafe { bindings::vtd_preempt_enable() };
    }
}

/// Lets others run, between two pieces of work that together may take long. May sleep.
///
/// # Errors
///
/// `EINTR`: this task is being killed, and should leave the rest.
pub(crate) fn pause() -> Result {
    // SAFETY: The caller may sleep.
    if unsafe { bindings::vtd_pause() } {
        Ok(())
    } else {
        Err(EINTR)
    }
}

/// Whether this task can be preempted here.
#[cfg(CONFIG_INTEL_IOMMU_RUST_KUNIT_TEST)]
pub(crate) fn preemptible() -> bool {
    // SAFETY: No requirements.
    unsafe { bindings::vtd_preemptible() }
}
