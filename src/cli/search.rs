//! `search`

use agentmux_state::{Error, SearchHit};
use anstyle::{AnsiColor, Style};

use super::{Context, Ending, Outcome, print};

pub(super) fn run(context: &Context, text: &str, limit: usize) -> Outcome {
    // With the right to write, what is not indexed yet can be.
    let store = match context.write() {
        Err(Error::ReadOnly { .. } | Error::Io { .. }) => context.read()?,
        store => store?,
    };
    let hits = store.search(text, limit)?;
    context.show(&hits, || hits.iter().map(for_people).collect())?;
    Ok(Ending::Complete)
}

fn for_people(hit: &SearchHit) -> String {
    let dim = Style::new().dimmed();
    let speaker = hit.agent_name.as_deref().unwrap_or(hit.role.as_str());
    format!(
        "{} {dim}#{} · {} · {}{dim:#}\n  {}\n",
        print::clean(&hit.conversation_id),
        hit.position,
        print::clean(speaker),
        print::ago(&hit.timestamp, super::now()),
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
