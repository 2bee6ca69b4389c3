use std::process::ExitCode;

fn main() -> ExitCode {
    eosin::cli::main()
}
