//! A document that is imported comes out again: the same bytes, or the same JSON.

use std::collections::HashSet;

use crate::common::{Base, FIXTURE, QUIRKS, TestResult, export, import};
use agentmux_state::{
    AgentActivity, AgentState, BackedUpFile, BuildState, ConversationState, Error, Extra, GitState, ImportOptions,
    OrchestratorMetadata, OrchestratorState, PersistedMessage, PlannedChange, ProjectState, RollbackPlan,
    SelfImprovementBackup, SelfImprovementState, SelfImprovementTask, SlackContext, StateStore, StoreOptions,
    TaskCheckpoint, TaskProgress, TaskState, Timestamp, ValidationCheck,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

#[test]
fn the_typescript_services_file_comes_out_byte_for_byte() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let report = import(&store, FIXTURE)?;
    assert!(report.set_aside.is_empty() && report.warnings.is_empty(), "{report:?}");
    assert!(export(&store)? == FIXTURE);
    Ok(())
}

#[test]
fn state_is_the_document() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    import(&store, FIXTURE)?;
    assert_eq!(store.state()?, serde_json::from_str(FIXTURE)?);
    assert_eq!(agentmux_state::to_json(&store.state()?)?, FIXTURE);
    Ok(())
}

#[test]
fn everything_that_real_files_do_comes_out_but_for_the_documented_changes() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    import(&store, QUIRKS)?;

    // Half a surrogate pair is no JSON for serde_json: the expected document starts with it replaced.
    let mut expected: Value = serde_json::from_str(&QUIRKS.replace("half \\ud83d", "half \\ufffd"))?;
    let conversations = expected["conversations"].as_array_mut().expect("a list");
    conversations[0]["recentMessages"].as_array_mut().expect("a list").remove(2);
    conversations[0].as_object_mut().expect("an object").remove("summary");
    conversations[1]["recentMessages"] = json!([]);
    let tasks = expected["tasks"].as_array_mut().expect("a list");
    tasks.drain(1..4);
    tasks[0]["progress"] = json!({"percentComplete": 0, "completedSteps": []});
    expected["metadata"] = json!({
        "version": "1.0.0", "hostname": "", "pid": 0, "startedAt": "", "uptimeSeconds": 0, "restartCount": 0
    });
    // Numbers are compared by value: `-0` and `-0.0` are one.
    let found: Value = serde_json::from_str(&export(&store)?)?;
    assert_eq!(found, expected);
    assert!(export(&store)?.contains("9007199254740993,\n            1e-7,\n            -0,\n            1e+21"));
    Ok(())
}

#[test]
fn numbers_print_as_javascript_prints_them() -> TestResult {
    let numbers = "[0.1, 1e21, 1e-7, 123456789012345680000, 5e-324, 1.7976931348623157e+308, 18446744073709551615, -9223372036854775808, 50.0, 33.333333333333336]";
    let printed = [
        "0.1",
        "1e+21",
        "1e-7",
        "123456789012345680000",
        "5e-324",
        "1.7976931348623157e+308",
        "18446744073709551615",
        "-9223372036854775808",
        "50",
        "33.333333333333336",
    ];
    let base = Base::new()?;
    let store = base.store()?;
    import(&store, &format!(r#"{{"version": "1.0.0", "x": {numbers}}}"#))?;
    let expected = format!("\"x\": [\n    {}\n  ]", printed.join(",\n    "));
    assert!(export(&store)?.contains(&expected), "{}", export(&store)?);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn importing_an_export_gives_the_same_state(state in state()) {
        let (first, second, third) = (Base::new()?, Base::new()?, Base::new()?);
        let fail = |error: Error| TestCaseError::fail(error.to_string());

        // From a document.
        let store = first.store().map_err(fail)?;
        let document = agentmux_state::to_json(&state).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let report = import(&store, &document).map_err(fail)?;
        prop_assert!(report.set_aside.is_empty() && report.warnings.is_empty(), "{:?}", report);
        prop_assert_eq!(&store.state().map_err(fail)?, &state);
        let exported = export(&store).map_err(fail)?;
        prop_assert_eq!(&exported, &document);

        // From the export, and in the strict way.
        let again = second.store().map_err(fail)?;
        again
            .import_json(exported.as_bytes(), ImportOptions::default().strict(true))
            .map_err(fail)?;
        prop_assert_eq!(&again.state().map_err(fail)?, &state);

        // From updates, over a state that held something else: each entity is what was written last. Not every document holds
        // what the library accepts from a caller.
        let mut state = state;
        state.conversations.retain(|it| !it.id.is_empty());
        state.tasks.retain(|it| !it.id.is_empty() && (0.0..=100.0).contains(&it.progress.percent_complete));
        state.agents.retain(|it| !it.session_name.is_empty());
        state.projects.retain(|it| !it.id.is_empty());
        let options = StoreOptions::default().message_limit(usize::MAX);
        let updated = StateStore::open_with(third.state_dir(), options).map_err(fail)?;
        for round in [shifted(&state), state.clone()] {
            updated
                .batch(|batch| {
                    round.conversations.iter().try_for_each(|it| batch.update_conversation(it))?;
                    round.tasks.iter().try_for_each(|it| batch.update_task(it))?;
                    round.agents.iter().try_for_each(|it| batch.update_agent(it))?;
                    round.projects.iter().try_for_each(|it| batch.update_project(it))?;
                    match &round.self_improvement {
                        Some(it) => batch.update_self_improvement(it),
                        None => batch.clear_self_improvement().map(drop),
                    }
                })
                .map_err(fail)?;
        }
        let found = updated.state().map_err(fail)?;
        prop_assert_eq!(&found.conversations, &state.conversations);
        prop_assert_eq!(&found.tasks, &state.tasks);
        prop_assert_eq!(&found.agents, &state.agents);
        prop_assert_eq!(&found.projects, &state.projects);
        prop_assert_eq!(&found.self_improvement, &state.self_improvement);
    }
}

/// The same ids in the same order, each with the content of its neighbour.
fn shifted(state: &OrchestratorState) -> OrchestratorState {
    fn shift<T: Clone>(list: &[T], id: fn(&mut T) -> &mut String) -> Vec<T> {
        let mut shifted = list.to_vec();
        shifted.rotate_left(1.min(list.len()));
        for (mut from, to) in list.iter().cloned().zip(&mut shifted) {
            *id(to) = std::mem::take(id(&mut from));
        }
        shifted
    }
    OrchestratorState {
        conversations: shift(&state.conversations, |it| &mut it.id),
        tasks: shift(&state.tasks, |it| &mut it.id),
        agents: shift(&state.agents, |it| &mut it.session_name),
        projects: shift(&state.projects, |it| &mut it.id),
        self_improvement: state.self_improvement.as_ref().map(|_| SelfImprovementState::default()),
        ..state.clone()
    }
}

/// Any text: letters of many scripts, emoji, control characters, quotes, what looks like an escape.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-z ]{0,12}",
        2 => any::<String>(),
        1 => Just("\u{0}\u{1b}[31m\"\\ud83d\u{2028}🚀\u{feff}".to_owned()),
    ]
}

fn timestamp() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        Just("2026-11-22T10:00:00.000Z".to_owned()),
        Just(String::new()),
        Just("now".to_owned()),
        Just("yesterday".to_owned()),
        Just("2026-02-30T25:61:00+99:99".to_owned()),
        text(),
    ]
    .prop_map(Timestamp::from)
}

/// A value of an enumeration: known or not.
fn open<T: From<String> + std::fmt::Debug>(known: &'static [&'static str]) -> impl Strategy<Value = T> {
    prop_oneof![3 => prop::sample::select(known).prop_map(str::to_owned), 1 => text()].prop_map(T::from)
}

/// Any number that JSON holds, as JavaScript prints it: whole ones are integers.
fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter("a finite fraction", |n| n.is_finite() && n.fract() != 0.0).prop_map(Value::from),
        Just(json!(1e300)),
        Just(json!(-0.0)),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf =
        prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), number(), text().prop_map(Value::from),];
    leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((text(), inner), 0..4).prop_map(|members| members.into_iter().collect::<Map<_, _>>().into()),
        ]
    })
}

/// Keys that no release knows.
fn extra() -> impl Strategy<Value = Extra> {
    let member = (text().prop_map(|key| format!("x-{key}")), value().prop_filter("null is absent", |v| !v.is_null()));
    prop_oneof![3 => Just(Extra::new()), 1 => vec(member, 0..3).prop_map(|members| members.into_iter().collect())]
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    vec(text(), 0..4)
}

/// Finite, not negative zero: the column of a percentage does not hold its sign.
fn percent() -> impl Strategy<Value = f64> {
    prop_oneof![(0..=100_u8).prop_map(f64::from), any::<f64>().prop_filter("finite", |n| n.is_finite() && *n != 0.0)]
}

fn conversation() -> impl Strategy<Value = ConversationState> {
    let message = (open(&["user", "orchestrator", "agent"]), text(), timestamp(), option::of(text()), extra())
        .prop_map(|(role, content, timestamp, agent_name, extra)| PersistedMessage {
            role,
            content,
            timestamp,
            agent_name,
            extra,
        });
    let slack = (text(), text(), extra()).prop_map(|(channel_id, thread_ts, extra)| SlackContext {
        channel_id,
        thread_ts,
        extra,
    });
    let optional = (option::of(text()), option::of(text()), option::of(slack), option::of(text()));
    (text(), open(&["chat", "slack", "api"]), vec(message, 0..4), optional, timestamp(), extra()).prop_map(
        |(id, source, recent_messages, (summary, user_id, slack_context, current_topic), last_activity_at, extra)| {
            ConversationState {
                id,
                source,
                recent_messages,
                summary,
                user_id,
                slack_context,
                current_topic,
                last_activity_at,
                extra,
            }
        },
    )
}

fn task() -> impl Strategy<Value = TaskState> {
    let progress = (percent(), option::of(text()), texts(), option::of(texts()), option::of(texts()), extra())
        .prop_map(|(percent_complete, current_step, completed_steps, remaining_steps, blockers, extra)| TaskProgress {
            percent_complete,
            current_step,
            completed_steps,
            remaining_steps,
            blockers,
            extra,
        });
    let work_data = vec((text(), value()), 0..3).prop_map(|members| members.into_iter().collect());
    let checkpoint =
        (any::<i64>(), option::of(work_data), option::of(texts()), option::of(text()), option::of(texts()), extra())
            .prop_map(|(step_index, work_data, modified_files, agent_context, pending_actions, extra)| {
                TaskCheckpoint { step_index, work_data, modified_files, agent_context, pending_actions, extra }
            });
    let names = (text(), text(), text(), option::of(text()), option::of(text()), option::of(text()));
    let kinds = (
        open(&["pending", "in_progress", "blocked", "paused", "completed"]),
        open(&["low", "medium", "high", "critical"]),
    );
    let times = (timestamp(), option::of(timestamp()), option::of(timestamp()), option::of(timestamp()));
    let links = (option::of(texts()), option::of(texts()));
    (names, kinds, progress, links, times, option::of(checkpoint), extra()).prop_map(
        |(names, (status, priority), progress, (blocked_by, blocks), times, checkpoint, extra)| {
            let (id, title, description, assigned_to, team_id, project_id) = names;
            let (created_at, started_at, last_activity_at, completed_at) = times;
            TaskState {
                id,
                title,
                description,
                status,
                priority,
                assigned_to,
                team_id,
                project_id,
                progress,
                blocked_by,
                blocks,
                created_at,
                started_at,
                last_activity_at,
                completed_at,
                checkpoint,
                extra,
            }
        },
    )
}

fn agent() -> impl Strategy<Value = AgentState> {
    let activity = (text(), timestamp(), option::of(text()), extra()).prop_map(
        |(activity_type, timestamp, description, extra)| AgentActivity { activity_type, timestamp, description, extra },
    );
    let optional = (option::of(text()), option::of(text()), option::of(text()), option::of(activity));
    (text(), text(), text(), open(&["active", "inactive", "busy", "error"]), optional, extra()).prop_map(
        |(session_name, agent_id, role, status, optional, extra)| {
            let (current_task_id, current_project_path, context_summary, last_activity) = optional;
            AgentState {
                session_name,
                agent_id,
                role,
                status,
                current_task_id,
                current_project_path,
                context_summary,
                last_activity,
                extra,
            }
        },
    )
}

fn project() -> impl Strategy<Value = ProjectState> {
    let git =
        (text(), text(), any::<bool>(), extra()).prop_map(|(branch, last_commit, has_uncommitted_changes, extra)| {
            GitState { branch, last_commit, has_uncommitted_changes, extra }
        });
    let build = (open(&["success", "failed", "unknown"]), option::of(timestamp()), any::<bool>(), extra()).prop_map(
        |(last_build_status, last_build_at, tests_pass, extra)| BuildState {
            last_build_status,
            last_build_at,
            tests_pass,
            extra,
        },
    );
    let names = (text(), text(), text(), open(&["active", "paused", "completed"]));
    (names, texts(), texts(), option::of(git), option::of(build), extra()).prop_map(
        |((id, name, path, status), active_tasks, active_agents, git_state, build_state, extra)| ProjectState {
            id,
            name,
            path,
            status,
            active_tasks,
            active_agents,
            git_state,
            build_state,
            extra,
        },
    )
}

fn self_improvement() -> impl Strategy<Value = SelfImprovementState> {
    let change = (text(), open(&["create", "modify", "delete"]), text(), open(&["low", "medium", "high"]), extra())
        .prop_map(|(file, change_type, description, risk, extra)| PlannedChange {
            file,
            change_type,
            description,
            risk,
            extra,
        });
    let task = (text(), text(), texts(), vec(change, 0..3), open(&["planning", "implementing", "testing"]), extra())
        .prop_map(|(id, description, target_files, planned_changes, status, extra)| SelfImprovementTask {
            id,
            description,
            target_files,
            planned_changes,
            status,
            extra,
        });
    let file =
        (text(), text(), text(), text(), extra()).prop_map(|(path, original_content, backup_path, checksum, extra)| {
            BackedUpFile { path, original_content, backup_path, checksum, extra }
        });
    let backup = (text(), timestamp(), vec(file, 0..3), option::of(text()), extra()).prop_map(
        |(id, created_at, files, git_commit, extra)| SelfImprovementBackup { id, created_at, files, git_commit, extra },
    );
    let check = (
        text(),
        open(&["build", "test", "lint", "custom"]),
        option::of(text()),
        any::<bool>(),
        option::of(any::<bool>()),
        option::of(text()),
        extra(),
    )
        .prop_map(|(name, check_type, command, required, passed, output, extra)| ValidationCheck {
            name,
            check_type,
            command,
            required,
            passed,
            output,
            extra,
        });
    let plan = (texts(), option::of(text()), extra()).prop_map(|(steps, git_commit, extra)| RollbackPlan {
        steps,
        git_commit,
        extra,
    });
    (option::of(task), option::of(backup), vec(check, 0..3), option::of(plan), extra()).prop_map(
        |(current_task, backup, validation_checks, rollback_plan, extra)| SelfImprovementState {
            current_task,
            backup,
            validation_checks,
            rollback_plan,
            extra,
        },
    )
}

fn state() -> impl Strategy<Value = OrchestratorState> {
    let version = prop_oneof![Just("1.0.0".to_owned()), Just("1.7.0-beta".to_owned())];
    let metadata = (text(), text(), any::<i64>(), timestamp(), any::<i64>(), 0..i64::MAX, extra()).prop_map(
        |(version, hostname, pid, started_at, uptime_seconds, restart_count, extra)| OrchestratorMetadata {
            version,
            hostname,
            pid,
            started_at,
            uptime_seconds,
            restart_count,
            extra,
        },
    );
    let reasons = &["scheduled", "before_restart", "task_completed"];
    let head = (text(), version, timestamp(), open(reasons), option::of(open(&["normal", "onboarding"])));
    let lists = (vec(conversation(), 0..4), vec(task(), 0..4), vec(agent(), 0..3), vec(project(), 0..3));
    (head, lists, option::of(self_improvement()), metadata, extra()).prop_map(
        |(head, (conversations, tasks, agents, projects), self_improvement, metadata, extra)| {
            let (id, version, checkpointed_at, checkpoint_reason, mode) = head;
            OrchestratorState {
                id,
                version,
                checkpointed_at,
                checkpoint_reason,
                mode,
                conversations: unique(conversations, |it| &it.id),
                tasks: unique(tasks, |it| &it.id),
                agents: unique(agents, |it| &it.session_name),
                projects: unique(projects, |it| &it.id),
                self_improvement,
                metadata,
                extra,
            }
        },
    )
}

fn unique<T>(list: Vec<T>, id: fn(&T) -> &String) -> Vec<T> {
    let mut ids = HashSet::new();
    list.into_iter().filter(|it| ids.insert(id(it).clone())).collect()
}
