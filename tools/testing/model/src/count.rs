// SPDX-License-Identifier: GPL-2.0

//! `refcount_t`, and who waits for one: the driver's `Count`, <linux/refcount.h>, and
//! wait_var_event() of kernel/sched/wait_bit.c. Where the kernel warns, this panics.

use crate::weaken::{ordering, weak, Weakening::*};
use loom::{
    sync::{
        atomic::{
            fence, AtomicBool, AtomicI32,
            Ordering::{Acquire, Relaxed, Release, SeqCst},
        },
        Mutex,
    },
    thread::{self, Thread},
};

pub struct Count(AtomicI32);

impl Count {
    pub fn new(n: i32) -> Self {
        Self(AtomicI32::new(n))
    }

    /// What it is to somebody who knows it: no ordering.
    pub fn read(&self) -> i32 {
        self.0.load(Relaxed)
    }

    pub fn is_zero_acquire(&self) -> bool {
        self.0.load(ordering(&[FindRelaxed], Acquire)) == 0
    }

    /// refcount_inc_not_zero(), and with an ordering that of `_acquire`.
    pub fn inc_not_zero(&self, success: loom::sync::atomic::Ordering) -> bool {
        let mut old = self.0.load(Relaxed);
        while old != 0 {
            match self.0.compare_exchange(old, old + 1, success, Relaxed) {
                Ok(_) => return true,
                Err(now) => old = now,
            }
        }
        false
    }

    pub fn inc(&self) {
        assert!(self.0.fetch_add(1, Relaxed) > 0, "addition on 0");
    }

    /// Of `users`, which stays above zero.
    pub fn dec(&self) {
        let old = self.0.fetch_sub(1, ordering(&[PutUsersRelaxed], Release));
        assert!(old > 1, "decrement hit 0");
    }

    /// Of `wait_cnt`, and of an object that nobody can find yet.
    pub fn dec_and_test(&self) -> bool {
        let old = self.0.fetch_sub(1, ordering(&[PutWaitRelaxed], Release));
        assert!(old > 0, "underflow");
        if old == 1 {
            acquire_after_ctrl_dep(weak(&[TestRelaxed]));
        }
        old == 1
    }

    /// Of `users`.
    pub fn dec_if_one(&self) -> bool {
        if self.0.compare_exchange(1, 0, Release, Relaxed).is_err() {
            return false;
        }
        acquire_after_ctrl_dep(weak(&[TakeRelaxed]));
        true
    }

    pub fn set(&self, n: i32) {
        self.0.store(n, Relaxed);
    }

    pub fn set_release(&self, n: i32) {
        self.0.store(n, ordering(&[PublishRelaxed], Release));
    }
}

/// smp_acquire__after_ctrl_dep()
fn acquire_after_ctrl_dep(left_out: bool) {
    if !left_out {
        fence(Acquire);
    }
}

/// Who waits at an address, of which there is one at most: the others of a hash bucket are woken
/// for nothing, and wait on.
pub struct Queue {
    waiter: Mutex<Option<Thread>>,
    /// waitqueue_active(), which is asked without the lock.
    active: AtomicBool,
}

impl Queue {
    pub fn new() -> Self {
        Self {
            waiter: Mutex::new(None),
            active: AtomicBool::new(false),
        }
    }

    /// wait_var_event(), without a timeout: who waits for ever is a deadlock, which loom sees.
    pub fn wait_for_zero(&self, count: &Count) {
        let is_zero = || count.0.load(ordering(&[WaitRelaxed], Acquire)) == 0;
        if is_zero() {
            return;
        }
        loop {
            let mut waiter = self.waiter.lock().unwrap();
            *waiter = Some(thread::current());
            self.active.store(true, Relaxed);
            // set_current_state()
            if !weak(&[SleepNoBarrier]) {
                fence(SeqCst);
            }
            drop(waiter);
            if is_zero() {
                break;
            }
            thread::park();
        }
        let mut waiter = self.waiter.lock().unwrap();
        *waiter = None;
        self.active.store(false, Relaxed);
    }

    /// wake_up_var(), behind smp_mb__after_atomic().
    pub fn wake(&self) {
        if weak(&[NoWake]) {
            return;
        }
        if !weak(&[WakeNoBarrier]) {
            fence(SeqCst);
        }
        if !self.active.load(Relaxed) {
            return;
        }
        let mut waiter = self.waiter.lock().unwrap();
        if let Some(thread) = waiter.take() {
            self.active.store(false, Relaxed);
            thread.unpark();
        }
    }
}
