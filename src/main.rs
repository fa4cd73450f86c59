//! The binary `mb`: everything is in the library; see `mb::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    mb::cli::main()
}
