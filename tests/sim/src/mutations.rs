//! The checkers tried themselves: the broker is broken in one place after the other, and each time some seed has to show it.

use std::process::ExitCode;
use std::time::Instant;

use trireme_engine::mutations::{Mutation, choose};

use crate::runner::Runner;

/// Tries every mutation (or those whose name contains `only`) on up to `seeds` seeds and prints which checker saw it, and
/// after how many. Fails if one was not seen.
pub fn run(first: u64, seeds: u64, jobs: usize, only: &str) -> ExitCode {
    let begun = Instant::now();
    let chosen: Vec<Mutation> = Mutation::ALL
        .iter()
        .copied()
        .filter(|mutation| {
            format!("{mutation:?}")
                .to_lowercase()
                .contains(&only.to_lowercase())
        })
        .collect();
    println!(
        "{:<24} {:<12} {:>5}  what is broken, and what was seen",
        "mutation", "caught by", "seeds"
    );
    let mut missed = 0;
    for mutation in chosen.iter().copied() {
        let runner = Runner {
            jobs,
            until_failed: true,
            quiet: true,
            before: Some(Box::new(move || choose(Some(mutation)))),
            ..Runner::new(first, Some(seeds))
        };
        let sum = runner.run();
        match sum.first_failure {
            Some((seed, violation)) => println!(
                "{:<24} {:<12} {:>5}  {}\n{:44}{}",
                format!("{mutation:?}"),
                violation.checker.to_string(),
                seed - first + 1,
                mutation.what(),
                "",
                shortened(&violation.what)
            ),
            None => {
                missed += 1;
                println!(
                    "{:<24} {:<12} {seeds:>5}  {}",
                    format!("{mutation:?}"),
                    "NOBODY",
                    mutation.what()
                );
            }
        }
    }
    println!(
        "{} mutations, {} caught, {missed} not caught within {seeds} seeds, {:.0} s",
        chosen.len(),
        chosen.len() - missed,
        begun.elapsed().as_secs_f64()
    );
    match missed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn shortened(what: &str) -> String {
    const CHARS_MAX: usize = 160;
    match what.char_indices().nth(CHARS_MAX) {
        Some((at, _)) => format!("{} ...", &what[..at]),
        None => what.to_owned(),
    }
}
