//! A whole state in pieces, so that the event loop is never held for long by reading one.

use std::collections::VecDeque;
use std::mem::take;
use std::sync::{Arc, Mutex, PoisonError};

use agentmux_state::{OrchestratorState, Result};
use napi::bindgen_prelude::AsyncTask;
use napi_derive::napi;
use serde::Serialize;

use crate::error::json;
use crate::work::Work;

/// How long a piece is at least, in bytes, but for the last one of a list.
const PIECE: usize = 64 * 1024;

/// A state as JSON texts: the document with empty lists, and each entity by itself.
#[napi(object)]
pub struct StateTexts {
    /// The document, with empty lists.
    pub head: String,
    /// The conversations, in the order of the document.
    pub conversations: Vec<String>,
    /// The tasks, likewise.
    pub tasks: Vec<String>,
    /// The agents, likewise.
    pub agents: Vec<String>,
    /// The projects, likewise.
    pub projects: Vec<String>,
}

impl StateTexts {
    /// Writes a state.
    pub(crate) fn new(mut state: OrchestratorState) -> Result<Self> {
        fn texts(entities: Vec<impl Serialize>) -> Result<Vec<String>> {
            entities.into_iter().map(|entity| json(&entity)).collect()
        }
        Ok(Self {
            conversations: texts(take(&mut state.conversations))?,
            tasks: texts(take(&mut state.tasks))?,
            agents: texts(take(&mut state.agents))?,
            projects: texts(take(&mut state.projects))?,
            head: json(&state)?,
        })
    }
}

/// A state in pieces of JSON: first the document with empty lists, then `[list, entities]` for some entities at a time.
#[napi]
pub struct StatePieces {
    pieces: Arc<Mutex<VecDeque<String>>>,
}

impl StatePieces {
    /// Cuts up a state.
    pub(crate) fn new(mut state: OrchestratorState) -> Result<Self> {
        let (conversations, tasks) = (take(&mut state.conversations), take(&mut state.tasks));
        let (agents, projects) = (take(&mut state.agents), take(&mut state.projects));
        let mut pieces = VecDeque::from([json(&state)?]);
        cut("conversations", &conversations, &mut pieces)?;
        cut("tasks", &tasks, &mut pieces)?;
        cut("agents", &agents, &mut pieces)?;
        cut("projects", &projects, &mut pieces)?;
        Ok(Self { pieces: Arc::new(Mutex::new(pieces)) })
    }
}

#[napi]
impl StatePieces {
    /// The next piece; nothing after the last one.
    #[napi(js_name = "next", ts_return_type = "Promise<string | null>")]
    pub fn next_piece(&self) -> AsyncTask<Work<Option<String>>> {
        let pieces = self.pieces.clone();
        AsyncTask::new(Work::new(move || Ok(pieces.lock().unwrap_or_else(PoisonError::into_inner).pop_front())))
    }
}

fn cut(list: &str, entities: &[impl Serialize], pieces: &mut VecDeque<String>) -> Result<()> {
    let mut piece = String::new();
    for (index, entity) in entities.iter().enumerate() {
        piece += if piece.is_empty() { "" } else { "," };
        piece += &json(entity)?;
        if piece.len() >= PIECE || index + 1 == entities.len() {
            pieces.push_back(format!("[\"{list}\",[{}]]", take(&mut piece)));
        }
    }
    Ok(())
}
