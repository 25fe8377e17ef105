//! The `strata` command: see [`strata::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    strata::cli::run(std::env::args_os(), strata::backends::Strategies::default())
}
