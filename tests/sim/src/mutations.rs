//! The checkers tried themselves: the broker is broken in one place after the other, and each time some seed has to show it.

use std::process::ExitCode;
use std::time::Instant;

use trireme_engine::mutations::{Mutation, choose};

use crate::Seeds;
use crate::history::{Checker, listen_to};
use crate::runner::Runner;

/// In the first table whoever is first speaks, which hides the others. Here each checker has to see something by itself.
const BY_ITSELF: &[(Checker, Mutation)] = &[
    (Checker::Durability, Mutation::AckAtAppend),
    (Checker::Undone, Mutation::WatermarkAtAppend),
    (Checker::Lookup, Mutation::LookupTooLate),
    (Checker::Commits, Mutation::CommitAtOnce),
    (Checker::Protocol, Mutation::AckBeforeSync),
    (Checker::Liveness, Mutation::StopHangs),
    (Checker::Fsck, Mutation::EarlyRecycle),
];

/// Tries every mutation (or those whose name contains `only`) on up to so many seeds and prints which checker saw it, and
/// after how many; then each checker by itself. With `checker` that one alone listens, to all of them. Fails if one was not
/// seen.
pub fn run(which: &Seeds, only: &str, checker: Option<Checker>) -> ExitCode {
    let begun = Instant::now();
    let only = only.to_lowercase();
    let name = |mutation: Mutation| format!("{mutation:?}").to_lowercase();
    let chosen = Mutation::ALL
        .iter()
        .copied()
        .filter(|mutation| name(*mutation).contains(&only));
    println!(
        "{:<24} {:<12} {:>5}  what is broken, and what was seen",
        "mutation", "caught by", "seeds"
    );
    let (mut tried, mut caught) = (0, 0);
    for mutation in chosen {
        tried += 1;
        caught += u32::from(catches(which, mutation, checker));
    }
    if checker.is_none() && only.is_empty() {
        println!("each checker by itself:");
        for (checker, mutation) in BY_ITSELF {
            tried += 1;
            caught += u32::from(catches(which, *mutation, Some(*checker)));
        }
    }
    println!(
        "{tried} trials with {} mutations, {caught} caught, {} not caught within {} seeds, {:.0} s",
        Mutation::ALL.len(),
        tried - caught,
        which.seeds,
        begun.elapsed().as_secs_f64()
    );
    match tried == caught {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Whether a mutation is seen, by anybody or by one checker; prints it.
fn catches(which: &Seeds, mutation: Mutation, checker: Option<Checker>) -> bool {
    let runner = Runner {
        until_failed: true,
        quiet: true,
        before: Some(Box::new(move || {
            choose(Some(mutation));
            listen_to(checker);
        })),
        ..which.runner()
    };
    let failure = runner.run().first_failure;
    let (by, seeds) = match &failure {
        Some((seed, violation)) => (violation.checker.to_string(), seed - which.first + 1),
        None => ("NOBODY".to_owned(), which.seeds),
    };
    let name = format!("{mutation:?}");
    println!("{name:<24} {by:<12} {seeds:>5}  {}", mutation.what());
    if let Some((_, violation)) = &failure {
        println!("{:44}{}", "", shortened(&violation.what));
    }
    failure.is_some()
}

fn shortened(what: &str) -> String {
    const CHARS_MAX: usize = 160;
    match what.char_indices().nth(CHARS_MAX) {
        Some((at, _)) => format!("{} ...", &what[..at]),
        None => what.to_owned(),
    }
}
