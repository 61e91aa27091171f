//! The command line: arguments to library calls to output.

mod backup;
mod check;
mod checkpoint;
mod completions;
mod entities;
mod graph;
mod migrate;
mod print;
mod progress;
mod prune;
mod recover;
mod report;
mod resume;
mod search;
mod status;
mod transfer;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use agentmux_state::{
    CheckpointReason, Clock, Error, ImportOptions, ListFilter, ProgressCallback, PruneOptions, StateStore,
    StoreOptions, Timestamp, default_state_dir,
};
use chrono::{DateTime, TimeDelta, Utc};
use clap::builder::PossibleValuesParser;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCandidates;
use clap_complete::env::CompleteEnv;
use serde::Serialize;

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
    #[arg(long, global = true, value_name = "DIR", env = "AGENTMUX_STATE_DIR", hide_env_values = true)]
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
    /// Bring the database to this release's schema, after a backup
    ///
    /// Says what is to be done, does all of it or nothing, and says where the backup lies. Makes the database where there is
    /// none. Opening the state in the orchestrator does the same; this is for installers, which want to know before.
    Migrate {
        /// Only report what has been applied and what is pending
        #[arg(long, conflicts_with = "dry_run")]
        status: bool,
        /// Do it on a copy, and report how long it takes and whether it succeeds; works beside a running orchestrator
        #[arg(long)]
        dry_run: bool,
    },

    /// Load a state document, such as the TypeScript service's current-state.json
    ///
    /// Everything that can be read is imported in one transaction; a record that cannot is kept word for word in the table
    /// set_aside, and the exit status is 3. The file itself is never changed.
    Import {
        /// The document; `-` reads standard input
        file: PathBuf,
        /// Replace the state that is there, after a backup
        #[arg(long, conflicts_with = "merge")]
        replace: bool,
        /// Add to the state that is there; entities with the same id are overwritten
        #[arg(long)]
        merge: bool,
        /// Import only if everything is as the format says; else list every problem
        #[arg(long)]
        strict: bool,
        /// Allow the new state to be empty, or less than half as large
        #[arg(long, requires = "replace")]
        allow_shrink: bool,
        /// The largest record that is read, in MiB; an import takes about four times as much memory
        #[arg(long, value_name = "N", default_value_t = 256)]
        max_record_mb: u32,
    },

    /// Write the state as a document in the layout of current-state.json
    Export {
        /// Where to; `-` is standard output [default: current-state.json in the state directory]
        file: Option<PathBuf>,
    },

    /// Show what is there: counts, last checkpoint, whether an orchestrator runs or crashed
    Status,

    /// Show what to take up after a restart
    Resume {
        /// The moment to judge by, as 2026-11-22T10:00:00Z [default: now]
        #[arg(long, value_name = "TIMESTAMP", value_parser = timestamp)]
        now: Option<Timestamp>,
    },

    /// Record a checkpoint and refresh current-state.json
    ///
    /// A checkpoint is a marker: every update is on the disk without it.
    Checkpoint {
        /// Why
        #[arg(long, default_value = "user_request", value_parser = PossibleValuesParser::new(CheckpointReason::KNOWN))]
        reason: String,
    },

    /// Find messages by what was said in them, the best first
    ///
    /// Any text is taken as words, never as syntax. A message matches where each word stands in it; a word of three or more
    /// letters may also begin a longer one. Accents and capital letters make no difference; Chinese is found by any part.
    Search {
        /// What to look for
        #[arg(allow_hyphen_values = true)]
        text: String,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
    },

    /// Make, list, verify, restore and thin out backups
    #[command(subcommand)]
    Backup(BackupCommand),

    /// Rebuild a damaged database from what can be read and the newest good backup or export
    ///
    /// The damaged files are moved to damaged-<ms>/ and never deleted. Says what came from where, and what is lost. Close
    /// everything that has the database open, also sqlite3 and Litestream.
    Recover,
    /// Drop completed tasks and idle conversations of some age, and give the space back. Unfinished work never goes
    ///
    /// A task goes by its completedAt, or the latest of its other times; one without a readable time stays, and so does one that
    /// an unfinished task depends on. Where less than half of the state would stay, a backup comes first. Without an age, only
    /// free space is given back.
    Prune {
        /// Drop tasks that were completed before: an age as 90min, 12h, 30days, 6months, or a moment as 2026-11-22T10:00:00Z
        #[arg(long, value_name = "AGE", value_parser = moment)]
        completed_before: Option<DateTime<Utc>>,
        /// Drop conversations in which nothing has happened since: an age or a moment
        #[arg(long, value_name = "AGE", value_parser = moment)]
        idle_before: Option<DateTime<Utc>>,
        /// Only say what would be dropped; works beside a running orchestrator
        #[arg(long)]
        dry_run: bool,
    },

    /// Check that everything is as it should be. Exits 1 where something is wrong
    ///
    /// The database's integrity and references, that every row can be read, the schema, the export, the newest backup, permissions.
    /// References to what is gone and records set aside are noted. Nothing is changed.
    Check,

    /// List conversations, tasks, agents or projects, a line each
    List {
        #[arg(value_enum)]
        kind: ListKind,
        #[command(flatten)]
        filter: Filter,
    },

    /// Show one conversation, task, agent or project whole
    Show {
        #[arg(value_enum)]
        kind: ShowKind,
        /// Its id; of an agent the session name
        #[arg(add = ArgValueCandidates::new(completions::entities))]
        id: String,
    },

    /// Print the tasks with their dependencies and status as a picture, in the language of Mermaid or of Graphviz
    Graph {
        /// The language
        #[arg(long, value_enum, default_value_t = GraphFormat::Mermaid)]
        format: GraphFormat,
        #[command(flatten)]
        filter: Filter,
    },

    /// Write the whole state as one page for a browser
    ///
    /// What is under way, what waits for what, progress, agents, the last words of conversations, runs and checkpoints, sizes.
    /// The page needs no network and holds no script.
    Report {
        /// Where to
        #[arg(value_name = "FILE.html")]
        file: PathBuf,
    },

    /// Print a script that completes commands, options and ids in your shell
    ///
    /// For bash: `source <(agentmux-state completions bash)` in ~/.bashrc; for zsh the same in ~/.zshrc; for fish
    /// `agentmux-state completions fish | source` in ~/.config/fish/config.fish.
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
}

#[derive(Subcommand)]
enum BackupCommand {
    /// Make a backup: verified, complete in one file, with its checksum
    Create {
        /// What to call it
        #[arg(default_value = "manual")]
        label: String,
    },
    /// List the backups, newest first
    List,
    /// Verify one backup or all: checksum, integrity, schema. Exits 1 where one cannot be trusted
    Verify {
        /// The backup
        #[arg(add = ArgValueCandidates::new(completions::backups))]
        id: Option<String>,
    },
    /// Go back to a backup, after a safety backup of the present state
    Restore {
        /// The backup
        #[arg(add = ArgValueCandidates::new(completions::backups))]
        id: String,
    },
    /// Remove the backups that no rule keeps; the newest one that can be trusted always stays
    Prune {
        /// Keep the newest so many [default: 10, where no rule is given]
        #[arg(long, value_name = "N")]
        keep: Option<usize>,
        /// Keep the newest of each of the last N days that have one
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
        keep_daily: usize,
        /// Keep the newest of each of the last N weeks that have one
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
        keep_weekly: usize,
        /// Keep the newest of each of the last N months that have one
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
        keep_monthly: usize,
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
}

/// Which entities to show.
#[derive(clap::Args)]
struct Filter {
    /// Only those in this status, for instance in_progress; conversations have none
    #[arg(long)]
    status: Option<String>,
    /// Only tasks and agents of this project
    #[arg(long, value_name = "ID", add = ArgValueCandidates::new(completions::projects))]
    project: Option<String>,
    /// Only tasks that are assigned to this agent, or projects that it works on
    #[arg(long, value_name = "SESSION", add = ArgValueCandidates::new(completions::agents))]
    agent: Option<String>,
    /// Only those in which something happened since: a moment as 2026-11-22T10:00:00Z, or an age as 90min, 2h, 3days
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    since: Option<DateTime<Utc>>,
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
}

impl From<Filter> for ListFilter {
    fn from(Filter { status, project, agent, since, limit }: Filter) -> Self {
        Self { status, project, agent, since, limit }
    }
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
enum ListKind {
    Conversations,
    Tasks,
    Agents,
    Projects,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
enum GraphFormat {
    Mermaid,
    Dot,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
enum ShowKind {
    Conversation,
    Task,
    Agent,
    Project,
}

/// How a command ended, when it did not fail.
enum Ending {
    Complete,
    RecordsSetAside,
    /// What was looked at is not as it should be; the output says what.
    ProblemsFound,
}

/// What every command is given.
struct Context {
    state_dir: PathBuf,
    json: bool,
    quiet: bool,
}

type Outcome = Result<Ending, Failure>;

/// Why a command failed.
enum Failure {
    State(Error),
    Output(io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::State(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
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
        Command::Migrate { status: true, .. } => migrate::status(&context),
        Command::Migrate { dry_run: true, .. } => migrate::dry_run(&context),
        Command::Migrate { .. } => migrate::run(&context),
        Command::Import { file, replace, merge, strict, allow_shrink, max_record_mb } => {
            let (mode, max_record_bytes) = (transfer::mode(replace, merge), u64::from(max_record_mb) << 20);
            let options = ImportOptions { mode, strict, allow_shrink, max_record_bytes, ..ImportOptions::default() };
            transfer::import(&context, &file, options)
        }
        Command::Export { file } => transfer::export(&context, file.as_deref()),
        Command::Status => status::run(&context),
        Command::Resume { now } => resume::run(&context, now),
        Command::Checkpoint { reason } => checkpoint::run(&context, &reason),
        Command::Recover => recover::run(&context),
        Command::Prune { completed_before, idle_before, dry_run } => {
            prune::run(&context, &PruneOptions { completed_before, idle_before, dry_run })
        }
        Command::Check => check::run(&context),
        Command::Search { text, limit } => search::run(&context, &text, limit),
        Command::Backup(command) => backup::run(&context, command),
        Command::List { kind, filter } => entities::list(&context, kind, &filter.into()),
        Command::Graph { format, filter } => graph::run(&context, format, &filter.into()),
        Command::Report { file } => report::run(&context, &file),
        Command::Completions { shell } => completions::run(shell),
        Command::Show { kind, id } => entities::show(&context, kind, &id),
    }
}

impl Context {
    /// The state, for reading.
    fn read(&self) -> Result<StateStore, Error> {
        StateStore::open_read_only_with(&self.state_dir, self.options())
    }

    /// Fails where what is there cannot be opened, before anything is made beside it. Nothing there is no failure.
    fn look(&self) -> Result<(), Error> {
        match StateStore::migration_status(&self.state_dir) {
            Ok(_) | Err(Error::NoDatabase { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The state, for writing, where it is there already and up to date.
    fn write(&self) -> Result<StateStore, Error> {
        self.read()?;
        self.open()
    }

    /// The state, for writing; made where it is missing, upgraded where it is behind.
    fn open(&self) -> Result<StateStore, Error> {
        StateStore::open_with(&self.state_dir, self.options())
    }

    /// Prints what was asked for.
    fn show(&self, report: &impl Serialize, for_people: impl FnOnce() -> String) -> io::Result<()> {
        if self.json { print::json(report) } else { print::text(&for_people()) }
    }

    /// Tells people what is about to be done. It is done, whether or not anybody listens.
    fn announce(&self, text: &str) {
        if !self.json && !self.quiet {
            let _ = print::text(text);
        }
    }

    /// Brings current-state.json up to date after what is done already: where that fails, it is said, and changes nothing else.
    fn refresh_export(&self, store: &StateStore) {
        if let Err(error) = store.refresh_export() {
            let message = print::clean_lines(&error.to_string());
            let hint = "current-state.json is not up to date; run `agentmux-state export`";
            // Where standard error is gone too, nobody can be told.
            let _ = writeln!(anstream::stderr(), "warning: {message}\n{hint}");
        }
    }

    /// Prints what was done. It is done: where it cannot be printed, that is said, and changes nothing else.
    fn confirm(&self, report: &impl Serialize, for_people: impl FnOnce() -> String) {
        if self.quiet && !self.json {
            return;
        }
        if let Err(error) = self.show(report, for_people)
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            // Where standard error is gone too, nobody can be told.
            let _ = writeln!(anstream::stderr(), "done, but the report could not be written: {error}");
        }
    }

    fn options(&self) -> StoreOptions {
        let progress = if self.quiet { ProgressCallback::default() } else { progress::bars() };
        StoreOptions { progress, ..StoreOptions::default() }
    }
}

/// The present time.
fn now() -> DateTime<Utc> {
    Clock::default().now()
}

/// A moment, or how long ago it was.
fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    let age = || humantime::parse_duration(text).ok().and_then(|age| TimeDelta::from_std(age).ok());
    let moment = Timestamp::from(text).parse().or_else(|| now().checked_sub_signed(age()?));
    moment.ok_or_else(|| "expected a moment such as 2026-11-22T10:00:00Z, or an age such as 90min, 2h, 3days".into())
}

fn timestamp(text: &str) -> Result<Timestamp, String> {
    let timestamp = Timestamp::from(text);
    match timestamp.parse() {
        Some(_) => Ok(timestamp),
        None => Err("expected a moment such as 2026-11-22T10:00:00Z".into()),
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
