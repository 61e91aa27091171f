//! What was acknowledged, kept outside of the processes that are killed, and what is found afterwards.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use agentmux_state::{ConversationState, OrchestratorState, StateStore};

use super::work;
use crate::common::{Base, TestResult};

/// What the state holds: a number for each key.
pub type State = BTreeMap<String, String>;

/// What one actor did, as it told.
#[derive(Default)]
pub struct Ledger {
    /// What may be in the state: as it was found last, and after each step that was tried since.
    steps: Vec<State>,
    /// The steps that were acknowledged.
    acknowledged: usize,
    /// What the export held when it was found last; `None` where there was none.
    export: Option<State>,
    /// The step that an acknowledged export holds.
    exported: Option<usize>,
    /// Acknowledged backups that were not to be removed.
    backups: BTreeSet<String>,
    /// How many steps were acknowledged in all.
    pub total: usize,
}

impl Ledger {
    pub fn hear(&mut self, said: &str) {
        if self.steps.is_empty() {
            self.steps.push(State::new());
        }
        let mut words = said.split(' ');
        match words.next() {
            Some("try") => {
                let mut next = self.steps.last().cloned().unwrap_or_default();
                for change in words {
                    match change.split_once('=').expect("a key and its number") {
                        (key, "") => next.remove(key),
                        (key, number) => next.insert(key.to_owned(), number.to_owned()),
                    };
                }
                self.steps.push(next);
            }
            Some("remove_backups") => self.backups.clear(),
            // What failed left no trace; the step stays one that may have happened, unless it is looked at at once.
            Some("undone") => {
                let before = self.steps.len().checked_sub(2).map(|index| self.steps[index].clone());
                self.steps.push(before.unwrap_or_default());
            }
            Some("exported") => self.exported = Some(self.acknowledged),
            Some("did") => {
                self.acknowledged = self.steps.len() - 1;
                self.total += 1;
                match words.next() {
                    Some("export") => self.exported = Some(self.acknowledged),
                    Some("backup") => self.backups.extend(words.map(str::to_owned)),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// Which of the steps the state is at: an acknowledged one or a later one, unless `may_lose`.
    fn find(&self, found: &State, may_lose: bool) -> Result<usize, String> {
        let first = if may_lose { 0 } else { self.acknowledged };
        let steps = &self.steps[first.min(self.steps.len())..];
        if let Some(at) = steps.iter().rposition(|step| step == found) {
            return Ok(first + at);
        }
        if self.steps.is_empty() && found.is_empty() {
            return Ok(0);
        }
        let empty = State::new();
        let expected = self.steps.get(self.acknowledged).unwrap_or(&empty);
        let keys: BTreeSet<_> = expected.keys().chain(found.keys()).collect();
        let differ = keys.into_iter().filter(|key| expected.get(*key) != found.get(*key));
        let differ: Vec<_> =
            differ.map(|key| format!("{key}: {:?}, not {:?}", found.get(key), expected.get(key))).collect();
        Err(format!("{} steps tried, {} acknowledged: {}", self.steps.len(), self.acknowledged, differ.join("; ")))
    }

    fn settle(&mut self, found: State, export: Option<State>) {
        self.steps = vec![found];
        self.acknowledged = 0;
        self.export = export;
        self.exported = None;
    }
}

/// The ledgers of all actors of a state.
#[derive(Default)]
pub struct Ledgers {
    pub actors: HashMap<String, Ledger>,
    /// Steps by their operation.
    pub operations: BTreeMap<String, usize>,
    /// The operation that was tried last.
    pub last_operation: String,
}

impl Ledgers {
    /// Takes a line as an actor says it: its name, then what it tries or did.
    pub fn hear(&mut self, line: &str) {
        let Some((actor, said)) = line.split_once(' ') else { return };
        if let Some(operation) = said.strip_prefix("begin ") {
            *self.operations.entry(operation.to_owned()).or_default() += 1;
            operation.clone_into(&mut self.last_operation);
        }
        self.actors.entry(actor.to_owned()).or_default().hear(said);
    }

    pub fn total(&self) -> usize {
        self.actors.values().map(|ledger| ledger.total).sum()
    }

    /// Opens the state and compares it with what was acknowledged: the database is whole, every acknowledged step is there,
    /// and one that was cut off wholly or not at all; so for the export and the backups. With `may_lose`, acknowledged steps
    /// may be lost from the end. How many are.
    pub fn verify(&mut self, base: &Base, may_lose: bool) -> Result<usize, Box<dyn std::error::Error>> {
        self.verify_in(&base.state_dir(), may_lose)
    }

    /// As [`Self::verify`], in any state directory.
    pub fn verify_in(&mut self, state_dir: &Path, may_lose: bool) -> Result<usize, Box<dyn std::error::Error>> {
        let store = StateStore::open(state_dir)?;
        let mut report = store.check()?;
        // The laboratory's disks are small; and an export may know of a checkpoint that the power took.
        report.problems.retain(|it| it.kind != "space" && !(may_lose && it.kind == "export"));
        if !report.problems.is_empty() {
            return Err(format!("check: {:?}", report.problems).into());
        }
        let state = store.state()?;
        let mut document = Vec::new();
        store.export_json(&mut document)?;
        let exported: OrchestratorState = serde_json::from_slice(&document)?;
        let is_same = exported.conversations == state.conversations
            && exported.tasks == state.tasks
            && exported.agents == state.agents
            && exported.projects == state.projects;
        if !is_same {
            return Err("what is exported is another state".into());
        }
        let export = match fs::read(state_dir.join("current-state.json")) {
            Ok(content) => Some(serde_json::from_slice(&content).map_err(|error| format!("the export file: {error}"))?),
            Err(_) => None,
        };
        let verdicts = store.backups().verify(None)?;
        if let Some(bad) = verdicts.iter().find(|verdict| !verdict.ok) {
            return Err(format!("a backup that is listed cannot be trusted: {bad:?}").into());
        }
        let mut lost = 0;
        for (actor, ledger) in &mut self.actors {
            let found = contents(&state, actor);
            let at = ledger.find(&found, may_lose).map_err(|error| format!("{actor}: {error}"))?;
            lost += ledger.acknowledged.saturating_sub(at);
            let exported = export.as_ref().map(|export| contents(export, actor));
            let first = ledger.exported.unwrap_or(0);
            let is_known = exported == ledger.export && ledger.exported.is_none()
                || exported.as_ref().is_some_and(|exported| ledger.steps[first..].contains(exported));
            if !is_known {
                return Err(format!("{actor}: the export holds {exported:?}").into());
            }
            for id in &ledger.backups {
                if !verdicts.iter().any(|verdict| verdict.id == *id) {
                    return Err(format!("{actor}: backup {id} is gone").into());
                }
            }
            ledger.settle(found, exported);
        }
        Ok(lost)
    }
}

/// What an actor has in a state. A record that is not as the actor writes it has no number.
fn contents(state: &OrchestratorState, actor: &str) -> State {
    let mut found = State::new();
    let mut add = |key: &str, number: &str, is_whole: bool| {
        if key.strip_prefix(actor).is_some_and(|rest| rest.starts_with('-')) {
            let number = if is_whole { number.to_owned() } else { format!("{number}, but not whole") };
            assert!(found.insert(key.to_owned(), number).is_none(), "{key} is there twice");
        }
    };
    for task in &state.tasks {
        let number = task.progress.completed_steps.first().map_or("none", String::as_str);
        add(&task.id, number, *task == work::task(&task.id, number));
    }
    for agent in &state.agents {
        add(&agent.session_name, &agent.agent_id, *agent == work::agent(&agent.session_name, &agent.agent_id));
    }
    for project in &state.projects {
        add(&project.id, &project.name, *project == work::project(&project.id, &project.name));
    }
    for conversation in &state.conversations {
        let (number, is_whole) = last_message(conversation);
        add(&conversation.id, &number, is_whole);
    }
    found
}

/// The number of the last message, and whether every message before it is there once.
fn last_message(conversation: &ConversationState) -> (String, bool) {
    let number = |index: usize| conversation.recent_messages.get(index).and_then(|it| it.content.parse::<u64>().ok());
    let length = conversation.recent_messages.len();
    let Some(last) = length.checked_sub(1).and_then(number) else { return ("empty".into(), length == 0) };
    let all = (0..length).all(|index| number(index) == (last + 1 + index as u64).checked_sub(length as u64));
    (last.to_string(), all && length as u64 == (last + 1).min(50))
}

/// Runs a check of a ledger and says where it was when it failed.
pub fn at<T>(place: &str, result: Result<T, Box<dyn std::error::Error>>) -> Result<T, Box<dyn std::error::Error>> {
    result.map_err(|error| format!("{place}: {error}").into())
}

/// Prints the figures of an experiment.
pub fn figures(experiment: &str, figures: &str) -> TestResult {
    eprintln!("LABORATORY {experiment}: {figures}");
    Ok(())
}
