//! What people look at: the graph, the page, and what the shell completes.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::program::{json, run, text};
use crate::common::skip::{requires, skip};
use crate::common::{Base, FIXTURE, TestResult, conversation, import, task};
use agentmux_state::{PersistedMessage, TaskState, TaskStatus};

const HOSTILE: &str =
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\"'`\\ #]; end";

fn shown(base: &Base, arguments: &[&str]) -> String {
    text(run(base, 0, arguments))
}

fn hostile() -> Result<Base, Box<dyn std::error::Error>> {
    let base = Base::new()?;
    let store = base.store()?;
    import(&store, FIXTURE)?;
    let blocked_by = Some(vec!["task-1".to_owned(), "gone\"task".into()]);
    store.update_task(&TaskState {
        title: HOSTILE.into(),
        blocked_by,
        ..task(HOSTILE, TaskStatus::Other(HOSTILE.into()))
    })?;
    store.update_conversation(&conversation(HOSTILE, []))?;
    store.append_message(HOSTILE, &PersistedMessage { content: HOSTILE.into(), ..Default::default() })?;
    let service = base.service();
    service.initialize()?;
    service.save_state(agentmux_state::CheckpointReason::UserRequest)?;
    service.prepare_for_shutdown()?;
    Ok(base)
}

#[test]
fn the_graph_shows_tasks_with_their_status_and_what_they_wait_for() -> TestResult {
    let base = hostile()?;
    let mermaid = shown(&base, &["graph"]);
    assert!(mermaid.starts_with("flowchart LR\n"), "{mermaid}");
    let node = |id: &str| {
        let line = mermaid.lines().find(|line| line.contains(&format!("[\"{id}<br/>"))).expect("the task");
        line.trim().split('[').next().unwrap_or_default().to_owned()
    };
    assert!(mermaid.contains(&format!("  {} --> {}\n", node("task-1"), node("task-2"))), "{mermaid}");
    assert!(mermaid.contains(":::in_progress") && mermaid.contains("classDef blocked"));
    assert!(mermaid.contains("gone#34;task"), "what is waited for and gone stands there, too");
    let hostile = mermaid.lines().find(|line| line.contains("owned")).expect("the hostile task");
    for sign in ["<script", "\"'", "`", "onerror=", "]; end"] {
        assert!(!hostile.contains(sign), "{sign}: {hostile}");
    }
    let dot = shown(&base, &["graph", "--format", "dot"]);
    assert!(dot.starts_with("digraph tasks {\n") && dot.ends_with("}\n"));
    if requires(&["dot"]) {
        let file = base.path().join("graph.dot");
        fs::write(&file, &dot)?;
        assert!(Command::new("dot").arg("-Tsvg").arg(&file).output()?.status.success());
    }
    // Every quote in a label is escaped.
    let line = dot.lines().find(|line| line.contains("owned")).expect("the hostile task");
    let label = line.split("label=\"").nth(1).expect("a label");
    let label = label.replace("\\\\", "").replace("\\\"", "");
    assert!(label[label.find('"').expect("its end")..].starts_with("\", fillcolor="), "{line}");

    let some = shown(&base, &["graph", "--status", "paused"]);
    assert_eq!(some.lines().filter(|line| line.contains(":::")).count(), 5);
    assert!(shown(&base, &["--json", "graph"]).starts_with("\"flowchart LR\\n"));
    Ok(())
}

#[test]
fn lists_are_filtered_as_people_expect() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    import(&store, FIXTURE)?;
    let mut late = task("T-late", TaskStatus::InProgress);
    late.last_activity_at = Some(chrono::Utc::now().into());
    store.update_task(&late)?;
    let ids = |arguments: &[&str]| -> Result<Vec<String>, Box<dyn std::error::Error>> {
        let list = json(&base, &[&["list"], arguments].concat());
        let id =
            |entity: &serde_json::Value| entity["id"].as_str().or(entity["sessionName"].as_str()).unwrap().to_owned();
        Ok(list.as_array().expect("a list").iter().map(id).collect())
    };
    assert_eq!(ids(&["tasks", "--agent", "dev-1", "--limit", "2"])?, ["task-1", "task-6"]);
    assert_eq!(ids(&["tasks", "--project", "proj-1", "--status", "paused"])?, ["task-13"]);
    assert_eq!(ids(&["tasks", "--since", "2h"])?, ["T-late"]);
    assert_eq!(ids(&["tasks", "--since", "2099-01-01T00:00:00Z"])?, [""; 0]);
    assert_eq!(ids(&["tasks", "--since", "2026-01-01T00:00:00Z"])?.len(), 25);
    assert_eq!(ids(&["agents", "--project", "proj-0"])?, ["dev-0"]);
    assert_eq!(ids(&["agents", "--agent", "dev-3", "--since", "2026-01-01T00:00:00Z"])?, ["dev-3"]);
    assert_eq!(ids(&["projects", "--agent", "dev-0"])?, ["proj-0"]);
    assert_eq!(ids(&["conversations", "--since", "2026-11-01T00:04:00Z"])?, ["conv-4", "conv-5"]);
    for wrong in
        [&["conversations", "--status", "x"][..], &["projects", "--since", "2h"], &["tasks", "--since", "soon"]]
    {
        let program = env!("CARGO_BIN_EXE_agentmux-state");
        let output = Command::new(program).arg("--state-dir").arg(base.state_dir()).arg("list").args(wrong).output()?;
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {output:?}");
    }
    Ok(())
}

#[test]
fn the_shell_completes_commands_and_ids() -> TestResult {
    let base = Base::new()?;
    import(&base.store()?, FIXTURE)?;
    let backup = base.store()?.backups().create("good")?.id;
    let folder = Path::new(env!("CARGO_BIN_EXE_agentmux-state")).parent().expect("its folder");
    for shell in ["zsh", "fish"] {
        assert!(shown(&base, &["completions", shell]).contains("agentmux-state"), "{shell}");
    }
    for (line, expected) in [
        ("agentmux-state sta", "status"),
        ("agentmux-state show task task-2", "task-2 task-20 task-21 task-22 task-23"),
        ("agentmux-state show agent ", "dev-0 dev-1 dev-2 dev-3 dev-4"),
        ("agentmux-state list tasks --project pr", "proj-0 proj-1 proj-2"),
        ("agentmux-state backup restore ", &backup),
        ("agentmux-state show task nothing", ""),
    ] {
        let script = format!(
            "PATH='{}':$PATH; export AGENTMUX_STATE_DIR='{}'; source <(agentmux-state completions bash)
             line='{line}'; read -ra COMP_WORDS <<< \"$line\"; [[ $line == *' ' ]] && COMP_WORDS+=('')
             COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_LINE=$line; COMP_POINT=${{#line}}; COMP_TYPE=9
             function=$(complete -p agentmux-state | sed 's/.*-F \\([^ ]*\\).*/\\1/')
             $function agentmux-state \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; echo ${{COMPREPLY[@]}}",
            folder.display(),
            base.state_dir().display()
        );
        let output = Command::new("bash").args(["-c", &script]).output()?;
        let completed = String::from_utf8(output.stdout)?;
        let candidates: Vec<_> =
            completed.split_whitespace().filter(|it| !it.starts_with("--") && *it != "-v").collect();
        let candidates: Vec<_> = candidates.iter().filter(|it| !["-q", "-h", "-V"].contains(it)).copied().collect();
        assert_eq!(candidates.join(" "), expected, "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

#[test]
fn the_page_needs_nothing_else_and_shows_hostile_content_as_text() -> TestResult {
    let base = hostile()?;
    let page = base.path().join("page.html");
    shown(&base, &["report", page.to_str().expect("a path")]);
    let html = fs::read_to_string(&page)?;
    for part in
        ["What is under way", "What waits for what", "Agents", "Last words", "Runs and checkpoints", "Sizes", "task-1"]
    {
        assert!(html.contains(part), "{part}");
    }
    for foreign in ["<script", "http:", "https:", "url(", "<img", "<link", "javascript:"] {
        assert!(!html.contains(foreign), "{foreign}");
    }
    assert!(html.contains("&lt;script&gt;document.title=&#39;owned&#39;"));
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(&page)?.permissions().mode() & 0o777, 0o600, "it holds what was said");
    // An empty state and one that is being made have a page, too.
    let empty = Base::new()?;
    empty.store()?;
    let page = empty.path().join("page.html");
    shown(&empty, &["report", page.to_str().expect("a path")]);
    assert!(fs::read_to_string(&page)?.contains("has not run yet"));
    Ok(())
}

fn browser() -> Option<&'static str> {
    let found = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success()));
    if found.is_none() {
        skip("Chromium is not installed");
    }
    found
}

#[test]
fn a_browser_shows_the_page_wide_on_a_phone_and_in_the_dark() -> TestResult {
    let Some(browser) = browser() else { return Ok(()) };
    let base = hostile()?;
    let page = base.path().join("page.html");
    shown(&base, &["report", page.to_str().expect("a path")]);
    let url = format!("file://{}", page.display());
    let run = |arguments: &[&str]| -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        let output = Command::new(browser)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"])
            .arg(format!("--user-data-dir={}", base.path().join("profile").display()))
            .args(arguments)
            .arg(&url)
            .output()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(output.stdout)
    };
    let dom = String::from_utf8(run(&["--dump-dom"])?)?;
    assert!(dom.contains("<title>AgentMux state</title>"), "no script ran");
    assert!(!dom.contains("<script") && !dom.contains("<img"), "what was said became no element");
    let rendered = |size: &str, dark: bool| -> Result<(u32, Vec<u8>), Box<dyn std::error::Error>> {
        let file = base.path().join("page.png");
        let mut arguments = vec![format!("--screenshot={}", file.display()), format!("--window-size={size}")];
        if dark {
            arguments.extend(["--force-dark-mode".into(), "--blink-settings=preferredColorScheme=0".into()]);
        }
        run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
        let mut reader = png::Decoder::new(std::io::BufReader::new(fs::File::open(&file)?)).read_info()?;
        let mut pixels = vec![0; reader.output_buffer_size().expect("a size")];
        let info = reader.next_frame(&mut pixels)?;
        let samples = info.color_type.samples();
        Ok((info.width, pixels.chunks(samples).flat_map(|pixel| pixel[..3].to_vec()).collect()))
    };
    for (size, width) in [("1200,900", 1200), ("500,900", 500)] {
        let (found, light) = rendered(size, false)?;
        let (_, dark) = rendered(size, true)?;
        assert_eq!(found, width);
        assert!(light[0] > 200 && dark[0] < 60, "{size}: the page follows the system: {} and {}", light[0], dark[0]);
        // Something is drawn, in colours; and nothing reaches over the right edge.
        let colours: std::collections::HashSet<_> = light.chunks(3).collect();
        assert!(colours.len() > 50, "{size}: {} colours", colours.len());
        let edge = light.chunks(3).skip(width as usize - 1).step_by(width as usize);
        assert!(edge.clone().all(|pixel| pixel == &light[..3]), "{size}: the right edge is page");
    }
    Ok(())
}
