// SPDX-License-Identifier: GPL-2.0

//! A model of how objects of `/dev/iommu` are looked up, destroyed, unbound and come back as others
//! in the same memory, in Rust's implementation (drivers/iommu/iommufd). [loom] runs it with the
//! ways in which threads can meet and what memory may show them then.
//!
//! usage: model                         everything, as TAP
//!        model SCENARIO [WEAKENING]    one, by the names that the first prints
//!
//! The scenarios (scenarios.rs) hold for what the driver does (count.rs, object.rs, written as it
//! is there, orderings included). Then each ordering that it relies on is weakened, and each step
//! left out or moved, one at a time (weaken.rs), and a scenario must fail, in the way that is
//! expected.
//!
//! # What it leaves out
//!
//! - Ways to meet with more than [`PREEMPTIONS`] switches that no thread asked for. With all of
//!   them the smaller scenarios take seconds, and pass; those of three threads do not end.
//! - Behaviour of memory that loom does not have: a load takes no value that is stored later.
//! - Dependencies: what follows rcu_dereference() is an acquire here, which orders more. Nothing
//!   depends on that but the constructor of new memory, as everything else comes with `wait_cnt`.
//! - The nodes of an xarray, and their RCU: a table is an array of entries. That a walk meets a
//!   node which has left the tree is xarray's business.
//! - RCU is a reader-writer lock, and there only where memory leaves the slab, for it orders more
//!   than a grace period does. The slab and all locks are mutexes.
//! - Timeouts: who would wait for 60 seconds waits for ever, which is a deadlock, and fails.
//! - Hash buckets: there is a wait queue for each address.
//! - Saturation of counts, failed allocations, other locks than a table's and a group's, and what
//!   drivers do.
//!
//! # What is stronger than it need be
//!
//! That refcount_dec_if_one() releases, and that refcount_dec_and_test() acquires where a loan
//! ends: nobody looks at what went before. Both come with `refcount_t`.
//!
//! [loom]: https://docs.rs/loom

mod count;
mod object;
mod scenarios;
mod weaken;

use std::{
    env,
    process::{Command, ExitCode},
};

/// How often a thread is interrupted in one run, at most.
const PREEMPTIONS: usize = 6;

/// One scenario. Panics if it does not hold.
fn check(scenario: &str, weakening: Option<&str>) {
    let (_, scenario, _) = scenarios::ALL
        .iter()
        .find(|(name, ..)| *name == scenario)
        .expect("no such scenario");
    if let Some(weakening) = weakening {
        let it = weaken::ALL
            .iter()
            .find(|it| it.name == weakening)
            .expect("no such weakening");
        weaken::weaken(it.what);
    }
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(PREEMPTIONS);
    model.check(scenario);
}

/// The same in a process of its own: whether it held, and what it said.
fn run(args: &[&str]) -> (bool, String) {
    let program = env::current_exe().expect("a name of this program");
    let out = Command::new(program)
        .args(args)
        .output()
        .expect("this program");
    (
        out.status.success(),
        String::from_utf8_lossy(&out.stderr).into_owned(),
    )
}

fn result(number: usize, ok: bool, text: &str, said: &str) {
    println!("{}ok {number} {text}", if ok { "" } else { "not " });
    if !ok {
        said.lines().take(20).for_each(|line| println!("# {line}"));
    }
}

fn all() -> bool {
    let mut number = 0;
    let mut good = true;
    println!("TAP version 13");
    println!("1..{}", scenarios::ALL.len() + weaken::ALL.len());
    for (name, _, text) in scenarios::ALL {
        number += 1;
        let (held, said) = run(&[name]);
        good &= held;
        result(number, held, &format!("{name}: {text}"), &said);
    }
    for it in weaken::ALL {
        number += 1;
        let (held, said) = run(&[it.scenario, it.name]);
        let caught = !held && said.contains(it.why);
        good &= caught;
        let text = format!("{} fails with {}: {}", it.scenario, it.name, it.text);
        result(
            number,
            caught,
            &text,
            if held { "It holds." } else { &said },
        );
    }
    good
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] if !all() => return ExitCode::FAILURE,
        [] => {}
        [scenario] => check(scenario, None),
        [scenario, weakening, ..] => check(scenario, Some(weakening)),
    }
    ExitCode::SUCCESS
}
