//! `completions`

use clap::ValueEnum;
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};

use super::context::{Ending, Outcome};
use super::print;

const PROGRAM: &str = env!("CARGO_BIN_NAME");

/// Print a script that completes commands, options and ids in your shell
///
/// For bash: `source <(agentmux-state completions bash)` in ~/.bashrc; for zsh the same in ~/.zshrc; for fish
/// `agentmux-state completions fish | source` in ~/.config/fish/config.fish.
#[derive(clap::Args)]
pub(super) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Completions {
    pub(super) fn run(self) -> Outcome {
        let completer: &dyn EnvCompleter = match self.shell {
            Shell::Bash => &Bash,
            Shell::Zsh => &Zsh,
            Shell::Fish => &Fish,
        };
        completer.write_registration("COMPLETE", PROGRAM, PROGRAM, PROGRAM, &mut print::stdout()?)?;
        Ok(Ending::Complete)
    }
}
