//! Parts that several sections of the page are made of.

use maud::{Markup, Render, html};

use super::data::MOST;

/// A text from the state. `maud` escapes what is syntax in HTML; this also replaces control characters by spaces, and escapes
/// the apostrophe, which `maud` leaves as it is.
pub(super) struct Text<'t>(pub(super) &'t str);

impl Render for Text<'_> {
    fn render_to(&self, html: &mut String) {
        for c in self.0.chars() {
            match c {
                '\'' => html.push_str("&#39;"),
                c if c.is_control() && c != '\n' => html.push(' '),
                c => c.encode_utf8(&mut [0; 4]).render_to(html),
            }
        }
    }
}

/// The class of a status, for its colour. Statuses come from anywhere.
pub(super) fn class(status: &str) -> &'static str {
    const KNOWN: [&str; 9] =
        ["pending", "in_progress", "blocked", "paused", "completed", "active", "inactive", "busy", "error"];
    KNOWN.into_iter().find(|known| *known == status).unwrap_or("other")
}

/// A card for each item, with the class of its colour and its content.
pub(super) fn cards<T>(items: &[T], none: &str, card: impl Fn(&T) -> (&'static str, Markup)) -> Markup {
    if items.is_empty() {
        return html! { p { (none) } };
    }
    html! {
        div.cards {
            @for (class, content) in items.iter().take(MOST).map(card) {
                div class={ "card " (class) } { (content) }
            }
        }
        (more(items.len().saturating_sub(MOST)))
    }
}

/// How many are not shown, where there are any.
pub(super) fn more(hidden: usize) -> Markup {
    html! {
        @if hidden > 0 { p.dim { "and " (hidden) " more" } }
    }
}
