//! Timing things in turns, and printing what came out.

use std::fmt::Write as _;
use std::ops::Range;
use std::time::{Duration, Instant};

use serde::Serialize;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How long something takes.
pub(crate) fn timed<T, E>(work: impl FnOnce() -> std::result::Result<T, E>) -> std::result::Result<Duration, E> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

/// One of several things that are timed in turns; it times itself, so that what it prepares does not count.
pub(crate) type Turn<'t> = Box<dyn FnMut(usize) -> Result<Duration> + 't>;

/// Times several things in turns, so that whatever slows the machine down meets all of them alike.
pub(crate) fn in_turns<const N: usize>(rounds: Range<usize>, mut turns: [Turn<'_>; N]) -> Result<[Times; N]> {
    let mut times = [const { Vec::new() }; N];
    for round in rounds {
        for (turn, times) in turns.iter_mut().zip(&mut times) {
            times.push(turn(round)?);
        }
    }
    Ok(times.map(Times::new))
}

/// How long each round took, sorted.
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    pub(crate) fn median(&self) -> Duration {
        self.at(0.5)
    }

    pub(crate) fn p99(&self) -> Duration {
        self.at(0.99)
    }

    fn at(&self, part: f64) -> Duration {
        let last = self.0.len().saturating_sub(1);
        self.0.get((last as f64 * part).round() as usize).copied().unwrap_or_default()
    }
}

/// Figures that belong together.
#[derive(Serialize)]
pub(crate) struct Group {
    title: String,
    unit: Unit,
    figures: Vec<Figure>,
}

#[derive(Clone, Copy, PartialEq, Serialize)]
pub(crate) enum Unit {
    #[serde(rename = "µs")]
    Microseconds,
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "MB")]
    Megabytes,
    #[serde(rename = "updates/s")]
    UpdatesPerSecond,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Figure {
    name: String,
    /// The median where there are several rounds.
    value: f64,
    p99: Option<f64>,
    ratio: Option<Ratio>,
    target: Option<Target>,
    met: Option<bool>,
}

#[derive(Serialize)]
struct Ratio {
    value: f64,
    to: String,
    /// Whether `value` says how many times faster this is, not how many times longer it takes.
    faster: bool,
}

/// What the ratio, or the value where there is none, is to be.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Group {
    pub(crate) fn new(title: impl Into<String>, unit: Unit) -> Self {
        Self { title: title.into(), unit, figures: Vec::new() }
    }

    /// Adds a figure by its median and 99th percentile.
    pub(crate) fn times(&mut self, name: impl Into<String>, times: &Times) -> &mut Figure {
        let (median, p99) = (self.in_unit(times.median()), self.in_unit(times.p99()));
        let figure = self.value(name, median);
        figure.p99 = Some(p99);
        figure
    }

    pub(crate) fn value(&mut self, name: impl Into<String>, value: f64) -> &mut Figure {
        let figure = Figure { name: name.into(), value, p99: None, ratio: None, target: None, met: None };
        self.figures.push(figure);
        let last = self.figures.len() - 1;
        &mut self.figures[last]
    }

    /// A time in the unit of these figures.
    pub(crate) fn in_unit(&self, time: Duration) -> f64 {
        time.as_secs_f64() * if self.unit == Unit::Milliseconds { 1e3 } else { 1e6 }
    }

    /// The figures as lines of a table in Markdown.
    pub(crate) fn table(&self) -> String {
        let unit = serde_json::to_string(&self.unit).unwrap_or_default();
        let unit = unit.trim_matches('"');
        let mut text = format!(
            "\n{}\n\n| {:<62} | {unit:>9} | {:>9} | {:>8} | {:<11} |\n",
            self.title, "", "p99", "ratio", "target"
        );
        let _ = writeln!(text, "| {} | --------: | --------: | -------: | ----------- |", "-".repeat(62));
        for Figure { name, value, p99, ratio, target, met } in &self.figures {
            let p99 = p99.map_or(String::new(), number);
            let ratio = ratio.as_ref().map_or(String::new(), |ratio| format!("{}×", number(ratio.value)));
            let target = target.map_or(String::new(), |target| {
                let mark = if *met == Some(true) { "" } else { " missed" };
                match target {
                    Target::AtMost(most) => format!("≤ {most}{mark}"),
                    Target::AtLeast(least) => format!("≥ {least}{mark}"),
                }
            });
            let _ = writeln!(text, "| {name:<62} | {:>9} | {p99:>9} | {ratio:>8} | {target:<11} |", number(*value));
        }
        text
    }
}

impl Figure {
    /// How many times longer, or more, this is than something else.
    pub(crate) fn over(&mut self, to: impl Into<String>, floor: f64) -> &mut Self {
        self.ratio = Some(Ratio { value: self.value / floor, to: to.into(), faster: false });
        self
    }

    /// How many times faster this is than something else.
    pub(crate) fn faster_than(&mut self, to: impl Into<String>, rival: f64) -> &mut Self {
        self.ratio = Some(Ratio { value: rival / self.value, to: to.into(), faster: true });
        self
    }

    pub(crate) fn target(&mut self, target: Target) {
        let value = self.ratio.as_ref().map_or(self.value, |ratio| ratio.value);
        // As printed: a target of 1.3 is not missed by 1.302.
        let value = (value * 100.0).round() / 100.0;
        self.met = Some(match target {
            Target::AtMost(most) => value <= most,
            Target::AtLeast(least) => value >= least,
        });
        self.target = Some(target);
    }
}

/// Three digits, or all before the point.
fn number(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}
