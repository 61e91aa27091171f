//! `import`

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};

use agentmux_state::{DATABASE_FILE, Error, ImportMode, ImportOptions, ImportReport, StateStore};

use super::context::{Context, Ending, Outcome};
use super::print;

/// Load a state document, such as the TypeScript service's current-state.json
///
/// Everything that can be read is imported in one transaction; a record that cannot is kept word for word in the table
/// set_aside, and the exit status is 3. The file itself is never changed.
#[derive(clap::Args)]
pub(super) struct Import {
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
}

impl Import {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let path = self.file.as_path();
        let options = ImportOptions::default()
            .mode(self.mode())
            .strict(self.strict)
            .allow_shrink(self.allow_shrink)
            .max_record_bytes(u64::from(self.max_record_mb) << 20);
        let is_stdin = path.as_os_str() == "-";
        let source_name = if is_stdin { "standard input".to_owned() } else { path.display().to_string() };
        let file = if is_stdin { spool(io::stdin().lock()) } else { open_seekable(path) };
        let mut file = file.map_err(|source| {
            // Trying again does not help against what it is.
            let is_of_another_kind = matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::IsADirectory);
            let action = if is_of_another_kind { "import" } else { "read" };
            Error::Io { action, path: source_name.clone().into(), source }
        })?;
        let total_bytes = file.metadata().ok().map(|metadata| metadata.len());
        let options = options.source_name(source_name).total_bytes(total_bytes);

        // A document that cannot be imported must not leave an empty database behind.
        if options.strict || !context.state_dir.join(DATABASE_FILE).exists() {
            StateStore::validate_json(reader(&file), &options)?;
            file.rewind()?;
        }
        context.look()?;
        let _lock = StateStore::lock_for_command(&context.state_dir)?;
        // An import is no upgrade.
        let store = match context.write() {
            Err(Error::NoDatabase { .. }) => context.open()?,
            store => store?,
        };
        let report = store.import_json(reader(&file), options)?;
        context.confirm(&report, || import_for_people(&report));
        Ok(if report.set_aside.is_empty() { Ending::Complete } else { Ending::RecordsSetAside })
    }

    fn mode(&self) -> ImportMode {
        match (self.replace, self.merge) {
            (true, _) => ImportMode::Replace,
            (_, true) => ImportMode::Merge,
            _ => ImportMode::IntoEmpty,
        }
    }
}

/// A file that can be read twice; what cannot be, such as a pipe, is spooled.
fn open_seekable(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        let detail = "it is a directory; name a state document, such as current-state.json";
        return Err(io::Error::new(io::ErrorKind::IsADirectory, detail));
    }
    if metadata.is_file() { Ok(file) } else { spool(file) }
}

/// Most whitespace before a document.
const MOST_BLANK: usize = 1024 * 1024;

/// What a reader gives, in a file without a name, which is gone when the process ends, however it ends. What cannot begin a document
/// is not read on: it may have no end.
fn spool(mut reader: impl Read) -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    let mut buffer = vec![0; 64 * 1024];
    let mut blank = 0;
    let mut begins = false;
    loop {
        let read = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let bytes = &buffer[..read];
        if !begins {
            match bytes.iter().position(|byte| !matches!(byte, b' ' | b'\n' | b'\r' | b'\t')) {
                // What cannot begin a document is kept as far as it was read, for the error that names it. So is a byte order mark.
                Some(at) if !matches!(bytes[at], b'{' | 0xef) => {
                    file.write_all(bytes)?;
                    break;
                }
                Some(_) => begins = true,
                None => blank += read,
            }
            if blank > MOST_BLANK {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("it begins with more than {MOST_BLANK} bytes of whitespace, which is no state document"),
                ));
            }
        }
        file.write_all(bytes)?;
    }
    file.rewind()?;
    Ok(file)
}

fn reader(file: &File) -> BufReader<&File> {
    BufReader::with_capacity(64 * 1024, file)
}

fn import_for_people(report: &ImportReport) -> String {
    let imported = &report.imported;
    let mut text = format!(
        "Imported {} with {}, {}, {} and {} from a document of version {}.\n",
        print::count(imported.conversations, "conversation"),
        print::count(imported.messages, "message"),
        print::count(imported.tasks, "task"),
        print::count(imported.agents, "agent"),
        print::count(imported.projects, "project"),
        print::clean(&report.source_version),
    );
    if let Some(backup) = &report.backup {
        text.push_str(&format!("The state as it was before is in backup {backup}.\n"));
    }
    if !report.warnings.is_empty() {
        text.push_str("\nNot as the format says, and read all the same:\n");
        for warning in &report.warnings {
            text.push_str(&format!("  {}: {}\n", print::clean(&warning.path), print::clean(&warning.message)));
        }
    }
    if !report.set_aside.is_empty() {
        text.push_str("\nCould not be read, and kept word for word in the table set_aside:\n");
        for record in &report.set_aside {
            text.push_str(&format!("  {}: {}\n", print::clean(&record.path), print::clean(&record.reason)));
        }
    }
    text
}
