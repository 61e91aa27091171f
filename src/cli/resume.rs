//! `resume`

use agentmux_state::{ResumeInstructions, Timestamp};

use super::context::{Context, Ending, Outcome};
use super::print;
use super::time::{self, timestamp};

/// Show what to take up after a restart
#[derive(clap::Args)]
pub(super) struct Resume {
    /// The moment to judge by, as 2026-11-22T10:00:00Z [default: now]
    #[arg(long, value_name = "TIMESTAMP", value_parser = timestamp)]
    now: Option<Timestamp>,
}

impl Resume {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let now = self.now.and_then(|now| now.parse()).unwrap_or_else(time::now);
        let instructions = context.read()?.resume_instructions(now)?;
        context.show(&instructions, || for_people(&instructions))?;
        Ok(Ending::Complete)
    }
}

fn for_people(instructions: &ResumeInstructions) -> String {
    let mut text = String::new();
    for notification in &instructions.notifications {
        text.push_str(&format!("{}: {}\n", notification.notification_type, print::clean(&notification.message)));
    }
    if !instructions.tasks_to_resume.is_empty() {
        text.push_str("\nTasks to take up, in order:\n");
        for task in &instructions.tasks_to_resume {
            let how = if task.resume_from_checkpoint { "from its checkpoint" } else { "from the start" };
            text.push_str(&format!("  {} ({how})\n", print::clean(&task.id)));
        }
    }
    if !instructions.conversations_to_resume.is_empty() {
        text.push_str("\nConversations to take up:\n");
        for conversation in &instructions.conversations_to_resume {
            text.push_str(&format!("  {}\n", print::clean(&conversation.id)));
        }
    }
    text
}
