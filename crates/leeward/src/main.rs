//! The `leeward` command: parses arguments, calls a library, prints, sets the exit code.

mod failure;
mod interrupt;
mod output;
mod progress;
mod size;
mod verb;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Leeward brings virtual machines through a disaster: it keeps content-addressed copies of their disks and gives them
/// back, byte for byte.
#[derive(Parser)]
#[command(name = "leeward", version, max_term_width = 110, arg_required_else_help = true)]
struct Arguments {
    #[command(flatten)]
    output: output::OutputArguments,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    #[command(subcommand)]
    Disk(verb::disk::DiskVerb),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let output = output::Output::new(&arguments.output);
    interrupt::watch();
    let result = match arguments.verb {
        Verb::Disk(verb) => verb::disk::run(verb, &output),
    };
    match result {
        Ok(code) => code,
        Err(failure) => failure.report(&output),
    }
}
