//! The command line: arguments to library calls to output. Each command owns its arguments.

mod backup;
mod candidates;
mod check;
mod checkpoint;
mod completions;
mod context;
mod export;
mod filter;
mod graph;
mod import;
mod list;
mod migrate;
mod print;
mod progress;
mod prune;
mod recover;
mod report;
mod resume;
mod search;
mod show;
mod status;
mod task_graph;
mod time;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use agentmux_state::default_state_dir;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::env::CompleteEnv;

use candidates::STATE_DIR_VARIABLE;
use context::{Context, Ending, Failure, Outcome};

#[derive(Parser)]
#[command(
    version,
    about = "Looks after the durable state of an AgentMux orchestrator",
    long_about = "Looks after the durable state of an AgentMux orchestrator: conversations, tasks, agents, projects.\n\n\
        The state lies in one SQLite database, state.db, which `sqlite3` opens too. Commands that only read work beside a \
        running orchestrator; import, migrate, prune and backup restore are refused while one runs.",
    after_help = "Exit status: 0 done, 1 failed and nothing changed, 2 wrong usage, 3 done with records set aside.\n\n\
        Examples:\n  agentmux-state import current-state.json    take over the TypeScript service's state\n  \
        agentmux-state status                       what is there\n  \
        agentmux-state list tasks --status paused   tasks in one status\n  \
        agentmux-state resume --json                what to take up after a restart",
    max_term_width = 100
)]
struct Arguments {
    /// State directory [default: ~/.agentmux/state]
    #[arg(long, global = true, value_name = "DIR", env = STATE_DIR_VARIABLE, hide_env_values = true)]
    state_dir: Option<OsString>,

    /// Print one JSON document instead of text for people
    #[arg(long, global = true)]
    json: bool,

    /// Say more of what is done; -vv and -vvv still more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,

    /// Print no confirmations, warnings and progress bars
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Migrate(migrate::Migrate),
    Import(import::Import),
    Export(export::Export),
    Status(status::Status),
    Resume(resume::Resume),
    Checkpoint(checkpoint::Checkpoint),
    Search(search::Search),
    #[command(subcommand)]
    Backup(backup::BackupCommand),
    Recover(recover::Recover),
    Prune(prune::Prune),
    Check(check::Check),
    List(list::List),
    Show(show::Show),
    Graph(graph::Graph),
    Report(report::Report),
    Completions(completions::Completions),
}

pub(crate) fn main() -> ExitCode {
    // Called by the shell's script to complete a line, this prints the candidates and ends.
    CompleteEnv::with_factory(Arguments::command).complete();
    let arguments = Arguments::try_parse();
    let outcome = match arguments {
        Ok(arguments) => {
            log_to_stderr(arguments.verbose, arguments.quiet);
            run(arguments)
        }
        // Help and the version are output, too.
        Err(message) => match if message.use_stderr() { Ok(()) } else { print::stdout().map(drop) } {
            Ok(()) => message.exit(),
            Err(error) => Err(error.into()),
        },
    };
    match outcome {
        Ok(Ending::Complete) => ExitCode::SUCCESS,
        Ok(Ending::RecordsSetAside) => ExitCode::from(3),
        Ok(Ending::ProblemsFound) => ExitCode::FAILURE,
        // Whoever reads the output has seen enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            let message = match failure {
                Failure::State(error) => error.to_string(),
                Failure::Output(error) => format!("cannot write the output: {error}"),
                Failure::Usage(message) => Arguments::command().error(ErrorKind::ArgumentConflict, message).exit(),
            };
            let style = anstyle::AnsiColor::Red.on_default().bold();
            // Where standard error is gone too, the exit status has to do.
            let _ = writeln!(anstream::stderr(), "{style}error:{style:#} {}", print::clean_lines(&message));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Outcome {
    let state_dir = match arguments.state_dir {
        // A variable that is set but empty says nothing.
        Some(state_dir) if !state_dir.is_empty() => state_dir.into(),
        _ => default_state_dir()?,
    };
    let context = Context { state_dir, json: arguments.json, quiet: arguments.quiet };
    match arguments.command {
        Command::Migrate(command) => command.run(&context),
        Command::Import(command) => command.run(&context),
        Command::Export(command) => command.run(&context),
        Command::Status(command) => command.run(&context),
        Command::Resume(command) => command.run(&context),
        Command::Checkpoint(command) => command.run(&context),
        Command::Search(command) => command.run(&context),
        Command::Backup(command) => command.run(&context),
        Command::Recover(command) => command.run(&context),
        Command::Prune(command) => command.run(&context),
        Command::Check(command) => command.run(&context),
        Command::List(command) => command.run(&context),
        Command::Show(command) => command.run(&context),
        Command::Graph(command) => command.run(&context),
        Command::Report(command) => command.run(&context),
        Command::Completions(command) => command.run(),
    }
}

fn log_to_stderr(verbose: u8, quiet: bool) {
    use tracing_subscriber::filter::LevelFilter;

    let level = match (quiet, verbose) {
        (true, _) => LevelFilter::ERROR,
        (_, 0) => LevelFilter::WARN,
        (_, 1) => LevelFilter::INFO,
        (_, 2) => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        .init();
}
