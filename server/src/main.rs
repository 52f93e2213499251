//! The broker binary: the command line, and a process around a node. No logic of its own.

#![forbid(unsafe_code)]

mod advertise;
mod checks;
mod cli;
mod kafka_apis;
mod launch;
mod logging;

use clap::Parser;
use std::process::ExitCode;
use trireme::config;

#[global_allocator]
static ALLOCATOR: trireme_runtime::memory::Allocator = trireme_runtime::memory::ALLOCATOR;

const _: () = assert!(
    !trireme_engine::mutations::BUILT,
    "mutations are for the simulator: build the broker without --features mutations"
);

/// Wrong configuration, as `sysexits.h` has it; everything else that goes wrong at start is 1.
const EXIT_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let (inner, print) = match cli.command {
        None => (cli::Settings::default(), false),
        Some(cli::Command::Serve(inner)) => (inner, false),
        Some(cli::Command::Config(inner)) => (inner, true),
        Some(cli::Command::KafkaApis) => {
            print!("{}", kafka_apis::table());
            return ExitCode::SUCCESS;
        }
    };
    let settings = inner.over(cli.settings);
    let config = match config::Config::load(
        settings.config.as_deref(),
        std::env::vars(),
        settings.given(),
    ) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("trireme: {error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if print {
        print!("{}", config.to_toml());
        return ExitCode::SUCCESS;
    }
    logging::start(&config);
    trireme_runtime::memory::no_huge_pages();
    match launch::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
