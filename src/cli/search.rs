//! `search`

use agentmux_state::{Error, SearchHit};
use anstyle::{AnsiColor, Style};

use super::context::{Context, Ending, Outcome};
use super::{print, time};

/// Find messages by what was said in them, the best first
///
/// Any text is taken as words, never as syntax. A message matches where each word stands in it; a word of three or more
/// letters may also begin a longer one. Accents and capital letters make no difference; Chinese is found by any part.
#[derive(clap::Args)]
pub(super) struct Search {
    /// What to look for
    #[arg(allow_hyphen_values = true)]
    text: String,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

impl Search {
    pub(super) fn run(self, context: &Context) -> Outcome {
        // With the right to write, what is not indexed yet can be.
        let store = match context.write() {
            Err(Error::ReadOnly { .. } | Error::Io { .. }) => context.read()?,
            store => store?,
        };
        let hits = store.search(&self.text, self.limit)?;
        context.show(&hits, || hits.iter().map(for_people).collect())?;
        Ok(Ending::Complete)
    }
}

fn for_people(hit: &SearchHit) -> String {
    let dim = Style::new().dimmed();
    let speaker = hit.agent_name.as_deref().unwrap_or(hit.role.as_str());
    format!(
        "{} {dim}#{} · {} · {}{dim:#}\n  {}\n",
        print::clean(&hit.conversation_id),
        hit.position,
        print::clean(speaker),
        print::ago(&hit.timestamp, time::now()),
        highlighted(hit),
    )
}

fn highlighted(hit: &SearchHit) -> String {
    let style = AnsiColor::Yellow.on_default().bold();
    let mut text = String::new();
    let mut at = 0;
    for range in hit.highlights.iter().filter(|range| range.end <= hit.snippet.len()) {
        text.push_str(&print::clean(&hit.snippet[at..range.start]));
        text.push_str(&format!("{style}{}{style:#}", print::clean(&hit.snippet[range.clone()])));
        at = range.end;
    }
    text + &print::clean(&hit.snippet[at..])
}
