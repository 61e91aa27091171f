//! The program `agentmux-state`; see `--help` and the README.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
