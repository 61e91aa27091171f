//! `export`

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use agentmux_state::Error;

use super::context::{Context, Ending, Failure, Outcome};
use super::print;

/// Write the state as a document in the layout of current-state.json
#[derive(clap::Args)]
pub(super) struct Export {
    /// Where to; `-` is standard output [default: current-state.json in the state directory]
    file: Option<PathBuf>,
}

impl Export {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let exported = match self.file.as_deref() {
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
        context
            .confirm(&exported, || format!("Wrote {} ({}).\n", exported.path.display(), print::bytes(exported.bytes)));
        Ok(Ending::Complete)
    }
}
