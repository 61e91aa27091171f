//! `import` and `export`

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;

use agentmux_state::{DATABASE_FILE, DirectoryLock, Error, ImportMode, ImportOptions, ImportReport, StateStore};

use super::{Context, Ending, Failure, Outcome, print};

pub(super) fn mode(replace: bool, merge: bool) -> ImportMode {
    match (replace, merge) {
        (true, _) => ImportMode::Replace,
        (_, true) => ImportMode::Merge,
        _ => ImportMode::IntoEmpty,
    }
}

pub(super) fn import(context: &Context, path: &Path, options: ImportOptions) -> Outcome {
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
    let options = ImportOptions { source_name, total_bytes, ..options };

    // A document that cannot be imported must not leave an empty database behind.
    if options.strict || !context.state_dir.join(DATABASE_FILE).exists() {
        StateStore::validate_json(reader(&file), &options)?;
        file.rewind()?;
    }
    context.look()?;
    let _lock = DirectoryLock::acquire_for_command(&context.state_dir)?;
    // An import is no upgrade.
    let store = match context.write() {
        Err(Error::NoDatabase { .. }) => context.open()?,
        store => store?,
    };
    let report = store.import_json(reader(&file), options)?;
    context.confirm(&report, || import_for_people(&report));
    Ok(if report.set_aside.is_empty() { Ending::Complete } else { Ending::RecordsSetAside })
}

pub(super) fn export(context: &Context, path: Option<&Path>) -> Outcome {
    let exported = match path {
        None => context.write()?.refresh_export()?,
        Some(path) if path.as_os_str() == "-" => {
            let mut out = BufWriter::with_capacity(64 * 1024, print::stdout()?.lock());
            return match context.read()?.export_json(&mut out) {
                Ok(()) => Ok(out.flush().map(|()| Ending::Complete)?),
                Err(Error::Stream { source, .. }) => Err(Failure::Output(source)),
                Err(error) => Err(error.into()),
            };
        }
        Some(path) => match context.read()?.export_to(path) {
            // The state directory's own export: that one is noted in the database.
            Err(Error::ReadOnly { .. }) => context.write()?.export_to(path)?,
            exported => exported?,
        },
    };
    context.confirm(&exported, || format!("Wrote {} ({}).\n", exported.path.display(), print::bytes(exported.bytes)));
    Ok(Ending::Complete)
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
