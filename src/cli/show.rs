//! `show`

use agentmux_state::{EntityKind, Error};
use clap::ValueEnum;
use clap_complete::engine::ArgValueCandidates;
use serde::Serialize;

use super::context::{Context, Ending, Outcome};
use super::{candidates, print};

/// Show one conversation, task, agent or project whole
#[derive(clap::Args)]
pub(super) struct Show {
    #[arg(value_enum)]
    kind: ShowKind,
    /// Its id; of an agent the session name
    #[arg(add = ArgValueCandidates::new(candidates::entities))]
    id: String,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
enum ShowKind {
    Conversation,
    Task,
    Agent,
    Project,
}

impl Show {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let id = self.id.as_str();
        let store = context.read()?;
        match self.kind {
            ShowKind::Conversation => print_entity(context, store.conversation(id)?, EntityKind::Conversation, id),
            ShowKind::Task => print_entity(context, store.task(id)?, EntityKind::Task, id),
            ShowKind::Agent => print_entity(context, store.agent(id)?, EntityKind::Agent, id),
            ShowKind::Project => print_entity(context, store.project(id)?, EntityKind::Project, id),
        }
    }
}

fn print_entity<T: Serialize>(context: &Context, entity: Option<T>, kind: EntityKind, id: &str) -> Outcome {
    let entity = entity.ok_or_else(|| Error::NotFound { kind, id: id.to_owned() })?;
    let value = serde_json::to_value(&entity).map_err(std::io::Error::from)?;
    context.show(&entity, || print::outline(&value))?;
    Ok(Ending::Complete)
}
