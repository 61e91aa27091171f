//! `report`: the state as one page that needs nothing else.

mod agents;
mod conversations;
mod data;
mod parts;
mod sizes;
mod tasks;
mod tiles;
mod time_line;
mod waiting;

use std::borrow::Cow;
use std::path::PathBuf;

use agentmux_state::write_private_file;
use chrono::{DateTime, Utc};
use maud::{Markup, PreEscaped, html};
use serde::Serialize;

use super::context::{Context, Ending, Outcome};
use super::{print, time};
use data::Data;
use parts::Text;

const STYLE: &str = include_str!("style.css");

/// Write the whole state as one page for a browser
///
/// What is under way, what waits for what, progress, agents, the last words of conversations, runs and checkpoints, sizes.
/// The page needs no network and holds no script.
#[derive(clap::Args)]
pub(super) struct Report {
    /// Where to
    #[arg(value_name = "FILE.html")]
    file: PathBuf,
}

#[derive(Serialize)]
struct Written<'p> {
    path: Cow<'p, str>,
    bytes: usize,
}

impl Report {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let path = self.file.as_path();
        let store = context.read()?;
        let page = page(&Data::read(&store)?, time::now()).into_string();
        write_private_file(path, page.as_bytes())?;
        let written = Written { path: path.to_string_lossy(), bytes: page.len() };
        context.confirm(&written, || format!("Wrote {} ({}).\n", path.display(), print::bytes(written.bytes as u64)));
        Ok(Ending::Complete)
    }
}

fn page(data: &Data, now: DateTime<Utc>) -> Markup {
    let sections = [
        ("What is under way", tasks::under_way(data, now)),
        ("Progress", tasks::progress(data)),
        ("What waits for what", waiting::drawing(data)),
        ("Agents", agents::cards(data, now)),
        ("Last words", conversations::last_words(data, now)),
        ("Runs and checkpoints", time_line::drawing(data, now)),
        ("Sizes", sizes::table(data, now)),
    ];
    html! {
        (PreEscaped("<!doctype html>\n"))
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                title { "AgentMux state" }
                style { "\n" (PreEscaped(STYLE)) }
            }
            body {
                main {
                    "\n" h1 { "AgentMux state" }
                    "\n" p.dim { (Text(&data.state_dir)) " · " (now.format("%Y-%m-%d %H:%M:%S").to_string()) " UTC" }
                    "\n" (tiles::tiles(data, now))
                    @for (title, content) in sections {
                        "\n" section { h2 { (title) } (content) }
                    }
                    "\n"
                }
            }
        }
        "\n"
    }
}
