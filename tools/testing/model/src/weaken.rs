// SPDX-License-Identifier: GPL-2.0

//! What can be weakened: an ordering of the driver's, or a step of it, one at a time.

use loom::sync::atomic::Ordering::{self, Relaxed};
use std::sync::OnceLock;

/// Something that can be weakened.
pub struct Weak {
    pub name: &'static str,
    pub what: Weakening,
    /// Which scenario fails then.
    pub scenario: &'static str,
    /// What the failure says.
    pub why: &'static str,
    pub text: &'static str,
}

/// Two accesses of which at least one writes, and neither comes first.
const RACE: &str = "Causality violation";
/// Somebody waits for ever.
const DEADLOCK: &str = "deadlock; threads";
/// What was found is another object.
const ANOTHER: &str = "another object";
/// An object is freed while there is a loan of it.
const LENT: &str = "freed with a loan";
/// A driver is told that something uses the object.
const REFUSED: &str = "who cannot be refused was";

macro_rules! weakenings {
    ($($name:ident, $scenario:ident, $why:expr, $text:literal;)*) => {
        /// What is weakened.
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub enum Weakening {
            $($name,)*
        }

        pub const ALL: &[Weak] = &[$(Weak {
            name: stringify!($name),
            what: Weakening::$name,
            scenario: stringify!($scenario),
            why: $why,
            text: $text,
        },)*];
    };
}

weakenings! {
    // Orderings.
    CountRelaxed, publish, RACE, "a lookup counts in wait_cnt without acquire";
    RecountRelaxed, reuse, RACE, "the same, where the memory has become another object";
    PublishRelaxed, publish, RACE, "publishing sets wait_cnt without release";
    FindRelaxed, find, RACE, "who has the lock reads wait_cnt without acquire";
    InsertRelaxed, publish, RACE, "an object gets into the table without release";
    LoadRelaxed, publish, RACE, "a lookup does not depend on the entry that it follows";
    PutWaitRelaxed, reuse, RACE, "wait_cnt is given back without release";
    TestRelaxed, reuse, RACE, "who makes wait_cnt zero does not acquire what others did";
    WaitRelaxed, reuse, RACE, "who waits for wait_cnt does not acquire what others did";
    PutUsersRelaxed, hold, RACE, "users is given back without release";
    TakeRelaxed, hold, RACE, "who takes users from one to zero does not acquire what others did";
    WakeNoBarrier, wake, DEADLOCK, "no barrier before looking for who waits";
    SleepNoBarrier, wake, DEADLOCK, "no barrier before looking at wait_cnt once more";
    // Steps.
    NoReload, reuse, ANOTHER, "a lookup does not look again whose the memory is";
    ReloadFirst, reuse, ANOTHER, "a lookup looks again before it has a count";
    NoRcu, slab, RACE, "a lookup is in no read-side section";
    NoGrace, slab, RACE, "memory goes back without a grace period";
    UsersFirst, unbind, REFUSED, "a loan counts in users before it does in wait_cnt";
    PutWaitFirst, unbind, REFUSED, "a loan gives wait_cnt back before users";
    TakeFirst, unbind, REFUSED, "unbind looks at users before it waits for loans";
    NoWait, destroy, LENT, "destroy does not wait for loans";
    NoRewait, reuse, LENT, "the same, where the loan is of what was there before";
    KeepWaitCnt, destroy, DEADLOCK, "destroy waits, and the table's wait_cnt is still there";
    KeepEntry, reuse, ANOTHER, "what is destroyed stays in the table";
    PutUnlocked, holds, ANOTHER, "a hold is given back before the table is locked";
    NoWake, wake, DEADLOCK, "who makes wait_cnt zero wakes nobody";
    WakeFollows, reuse, RACE, "who wakes looks at the object, of which it has no count any more";
    HoldUnknown, revoked, "addition on 0", "a known object is held without a look into the table";
    NoRevoke, revoke, DEADLOCK, "unbind does not end loans that last";
}

static WEAKENED: OnceLock<Weakening> = OnceLock::new();

/// Weakens one for the rest of the process.
pub fn weaken(what: Weakening) {
    assert!(WEAKENED.set(what).is_ok());
}

/// Whether one of these is what is weakened.
pub fn weak(any: &[Weakening]) -> bool {
    WEAKENED
        .get()
        .is_some_and(|weakened| any.contains(weakened))
}

/// An ordering of the driver's, unless it is weakened by one of these.
pub fn ordering(any: &[Weakening], strong: Ordering) -> Ordering {
    if weak(any) {
        Relaxed
    } else {
        strong
    }
}
