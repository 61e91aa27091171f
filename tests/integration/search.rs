//! Searching messages: what is found, how well, and what it costs those who write.

use crate::common::{Base, FIXTURE, TestResult, conversation, import};
use agentmux_state::{PersistedMessage, SearchHit, StateStore, StoreOptions};
use proptest::prelude::*;
use proptest::sample::select;

fn say(store: &StateStore, content: &str) -> agentmux_state::Result<()> {
    store.append_message("C-1", &PersistedMessage { content: content.into(), ..Default::default() })
}

fn store_of(contents: &[&str]) -> Result<(Base, StateStore), Box<dyn std::error::Error>> {
    let base = Base::new()?;
    let options = StoreOptions::default().message_limit(usize::MAX);
    let store = StateStore::open_with(base.state_dir(), options)?;
    store.update_conversation(&conversation("C-1", []))?;
    contents.iter().try_for_each(|content| say(&store, content))?;
    Ok((base, store))
}

/// The messages that are found, by what they say.
fn found(store: &StateStore, text: &str) -> agentmux_state::Result<Vec<String>> {
    Ok(store.search(text, 100)?.into_iter().map(|hit| hit.snippet).collect())
}

#[test]
fn words_beginnings_and_phrases_are_found_in_any_language() -> TestResult {
    let all = [
        "Deploy the build now",
        "the résumé of a naïve café",
        "状態は模型です",
        "完了しました login 🚀",
        "Überprüfung der Straße",
        "исправить сборку",
        "한국어 메시지",
        "ข้อความภาษาไทย",
    ];
    for indexed in [false, true] {
        let (_base, store) = store_of(&all)?;
        if indexed {
            assert_eq!(store.update_message_index()?, all.len() as u64);
        }
        for (text, expected) in [
            ("deploy", Some(0)),
            ("DEPLOY", Some(0)),
            ("dep", Some(0)),
            ("build the", Some(0)),
            ("resume", Some(1)),
            ("RÉSUMÉ naive", Some(1)),
            ("re\u{301}sume\u{301}", Some(1)),
            ("模型", Some(2)),
            ("型で", Some(2)),
            ("模態", None),
            ("了しま", Some(3)),
            ("🚀", Some(3)),
            ("login🚀", None),
            ("uberpruf", Some(4)),
            ("ИСПРАВИТЬ", Some(5)),
            ("메시", Some(6)),
            ("ภาษา", Some(7)),
            ("eploy", None),
            ("de", Some(4)),
            ("deploy nothing", None),
        ] {
            let expected: Vec<_> = match (text, expected) {
                // Two letters stand for a whole word only.
                ("de", _) => vec![],
                (_, expected) => expected.map(|index| all[index].to_owned()).into_iter().collect(),
            };
            assert_eq!(found(&store, text)?, expected, "{text:?}, indexed: {indexed}");
        }
    }
    Ok(())
}

#[test]
fn any_input_is_text_and_never_syntax() -> TestResult {
    let (_base, store) = store_of(&["a NEAR miss OR \"quoted\" AND more", "words: secret"])?;
    store.update_message_index()?;
    for (text, hits) in [
        ("\"", 0),
        ("'", 0),
        ("", 0),
        ("*", 0),
        ("-", 0),
        ("NEAR", 1),
        ("NEAR(miss, 2)", 0),
        ("NEAR(miss", 1),
        ("quoted\" OR", 1),
        ("words:secret", 1),
        ("secret*", 1),
        ("^secret", 1),
        ("OR AND NOT", 0),
        ("or and", 1),
        ("%", 0),
        ("\0", 0),
        ("{words} : secret", 1),
        ("); DROP TABLE messages; --", 0),
    ] {
        assert_eq!(store.search(text, 10)?.len(), hits, "{text:?}");
    }
    let many: Vec<String> = (0..5000).map(|n| format!("absent{n}")).collect();
    assert!(store.search(&many.join(" "), 10)?.is_empty());
    assert!(store.search(&"模".repeat(5000), 10)?.is_empty());
    assert!(store.search(&"x".repeat(1_000_000), 10)?.is_empty());
    Ok(())
}

#[test]
fn the_best_comes_first_and_of_equals_the_newest() -> TestResult {
    let (_base, store) = store_of(&[
        "the build is broken, and a fix for it is on its way to the server after all, as far as I can tell today",
        "fix the build",
        "build: fix the fix",
        "builder and fixture",
        "fix build",
        "fix build",
    ])?;
    for _ in 0..2 {
        let hits = store.search("fix build", 10)?;
        let order: Vec<_> = hits.iter().map(|hit| hit.position).collect();
        assert_eq!(order[..2], [5, 4], "the phrase, the newer one first");
        assert_eq!(order[order.len() - 1], 3, "beginnings of words last");
        assert_eq!(order.len(), 6);
        assert_eq!(store.search("fix build", 2)?.len(), 2);
        store.update_message_index()?;
    }
    Ok(())
}

#[test]
fn a_snippet_shows_the_place_on_one_line() -> TestResult {
    let long = format!("{} here is the\n\nNeedle, at last {}", "hay ".repeat(100), "straw ".repeat(100));
    let (_base, store) = store_of(&[&long])?;
    let SearchHit { snippet, highlights, .. } = store.search("needle", 1)?.remove(0);
    assert!(snippet.contains("here is the Needle, at last"), "{snippet}");
    assert!(snippet.starts_with("…hay") && snippet.ends_with('…'), "{snippet}");
    assert!(snippet.chars().count() < 200);
    assert_eq!(highlights.iter().map(|range| &snippet[range.clone()]).collect::<Vec<_>>(), ["Needle"]);
    Ok(())
}

#[test]
fn what_changes_is_found_as_it_is_now_whoever_changed_it() -> TestResult {
    let (base, store) = store_of(&["alpha one", "beta two", "gamma three"])?;
    store.update_message_index()?;
    // By hand, as in the shell.
    base.sql()?.execute_batch(
        "UPDATE messages SET content = 'delta four' WHERE content = 'beta two';
         DELETE FROM messages WHERE content = 'gamma three';
         INSERT INTO messages (conversation_id, position, role, content, timestamp) VALUES ('C-1', 9, 'user', 'epsilon five', '')",
    )?;
    for _ in 0..2 {
        assert_eq!(found(&store, "beta")?, [""; 0]);
        assert_eq!(found(&store, "gamma")?, [""; 0]);
        assert_eq!(found(&store, "delta")?, ["delta four"]);
        assert_eq!(found(&store, "epsilon")?, ["epsilon five"], "it has the number of the one that is gone");
        assert_eq!(found(&store, "alpha")?, ["alpha one"]);
        store.update_message_index()?;
    }
    store.remove_conversation("C-1")?;
    assert_eq!(found(&store, "alpha")?, [""; 0]);
    store.update_conversation(&conversation("C-1", []))?;
    say(&store, "zeta")?;
    assert_eq!(found(&store, "zeta")?, ["zeta"]);
    Ok(())
}

#[test]
fn a_search_indexes_what_was_imported_and_reads_where_it_may_not_write() -> TestResult {
    let base = Base::new()?;
    import(&base.store()?, FIXTURE)?;
    let mut document: serde_json::Value = serde_json::from_str(FIXTURE)?;
    let message = document["conversations"][0]["recentMessages"][0].clone();
    document["conversations"][0]["recentMessages"] = vec![message; 2000].into();
    let options = agentmux_state::ImportOptions::default().mode(agentmux_state::ImportMode::Replace);
    base.store()?.import_json(document.to_string().as_bytes(), options)?;
    let state =
        |base: &Base| base.sql()?.query_row("SELECT missing FROM message_index_state", [], |row| row.get::<_, u64>(0));
    assert!(state(&base)? > 2000);
    let reader = StateStore::open_read_only(base.state_dir())?;
    let before = reader.search("deploy", 5)?;
    assert_eq!(before.len(), 5);
    assert!(state(&base)? > 2000, "it may not write");
    assert_eq!(base.store()?.search("deploy", 5)?, before);
    assert_eq!(state(&base)?, 0);
    assert_eq!(reader.search("deploy", 5)?, before);
    assert_eq!(base.store()?.check()?.problems.iter().filter(|it| it.kind == "integrity").count(), 0);
    Ok(())
}

#[test]
fn an_index_of_which_most_is_gone_is_made_anew() -> TestResult {
    let (base, store) = store_of(&["alpha one"])?;
    store.update_message_index()?;
    base.sql()?.execute("UPDATE message_index_progress SET entries = 100000", [])?;
    say(&store, "beta two")?;
    store.update_message_index()?;
    let entries: u64 = base.sql()?.query_row("SELECT entries FROM message_index_progress", [], |row| row.get(0))?;
    assert_eq!(entries, 2);
    assert_eq!(found(&store, "alpha")?, ["alpha one"]);
    Ok(())
}

#[test]
fn nothing_is_passed_over_whatever_changed_before_it_was_indexed() -> TestResult {
    // A message that is queued, and others before it that no batch has reached yet.
    let contents: Vec<String> = (0..600).map(|n| format!("alpha u{n} {}", "filler ".repeat(300))).collect();
    let contents: Vec<&str> = contents.iter().map(String::as_str).collect();
    let (base, store) = store_of(&contents)?;
    base.sql()?.execute("INSERT INTO messages_to_index SELECT max(message_id) FROM messages", [])?;
    assert_eq!(store.search("alpha", 1000)?.len(), 600);
    assert_eq!(store.search("u300", 1000)?.len(), 1);

    // A queue in which those stand first whose messages are gone.
    base.sql()?.execute_batch(
        "UPDATE messages SET content = replace(content, 'alpha', 'beta');
         DELETE FROM messages WHERE message_id <= 300",
    )?;
    assert_eq!(store.search("beta", 1000)?.len(), 300);
    assert_eq!(store.search("alpha", 1000)?.len(), 0);
    Ok(())
}

#[test]
fn the_oldest_message_is_found_behind_a_hundred_megabytes() -> TestResult {
    let long = "straw ".repeat(200_000);
    let (base, store) = store_of(&["a needle in the oldest"])?;
    for _ in 0..60 {
        say(&store, &long)?;
    }
    let reader = StateStore::open_read_only(base.state_dir())?;
    assert_eq!(reader.search("needle", 1)?.len(), 1, "read as it is");
    assert_eq!(store.search("needle", 1)?.len(), 1, "indexed");
    Ok(())
}

#[test]
fn a_search_waits_for_nobody_who_writes() -> TestResult {
    let base = Base::new()?;
    import(&base.store()?, FIXTURE)?;
    let writer = base.sql()?;
    writer.execute_batch("BEGIN IMMEDIATE")?;
    let start = std::time::Instant::now();
    assert!(!base.store()?.search("deploy", 5)?.is_empty());
    assert!(start.elapsed() < std::time::Duration::from_secs(10), "{:?}", start.elapsed());
    let missing = "SELECT missing FROM message_index_state";
    assert!(writer.query_row(missing, [], |row| row.get::<_, u64>(0))? > 50, "so it read what is not indexed");
    Ok(())
}

#[test]
fn a_text_that_repeats_itself_costs_no_more_than_its_words() -> TestResult {
    let (_base, store) = store_of(&[&"─".repeat(100_000), &"a ".repeat(100_000)])?;
    store.update_message_index()?;
    for text in ["─".repeat(40_000), "a ".repeat(60_000), "🚀".repeat(25_000)] {
        let start = std::time::Instant::now();
        store.search(&text, 5)?;
        assert!(start.elapsed() < std::time::Duration::from_secs(20), "{:?}", start.elapsed());
    }
    Ok(())
}

#[test]
fn adding_a_message_writes_nothing_into_the_index() -> TestResult {
    let (base, store) = store_of(&["one"])?;
    store.update_message_index()?;
    let index = "SELECT (SELECT count(*) FROM message_index_data), (SELECT indexed_to FROM message_index_progress),
                        (SELECT count(*) FROM messages_to_index)";
    let content = || base.sql()?.query_row(index, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    let before: (u64, u64, u64) = content()?;
    for n in 0..100 {
        say(&store, &format!("message {n}"))?;
    }
    assert_eq!(content()?, before);
    Ok(())
}

/// What a search finds, said once more and simply: for texts of small words with blanks between, and of ideographs.
fn brute_force(messages: &[String], text: &str) -> Vec<i64> {
    let is_sign = |c: char| !c.is_ascii();
    let matches = |content: &str, word: &str| {
        if word.chars().all(is_sign) {
            return content.contains(word);
        }
        let may_begin = word.len() >= 3;
        content.split(' ').any(|other| if may_begin { other.starts_with(word) } else { other == word })
    };
    let found = messages.iter().enumerate();
    let found = found
        .filter(|(_, content)| !text.trim().is_empty() && text.split_whitespace().all(|word| matches(content, word)));
    found.map(|(position, _)| position as i64).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_search_finds_what_reading_everything_finds(
        messages in prop::collection::vec(
            prop::collection::vec(select(vec!["dep", "deploy", "deployed", "de", "build", "bui", "状", "状態", "態状", "模型状態"]), 0..6),
            1..30,
        ),
        indexed in 0_usize..30,
        texts in prop::collection::vec(prop::collection::vec(select(vec!["dep", "deploy", "de", "buil", "状", "状態", "態", "x"]), 1..4), 1..6),
    ) {
        let messages: Vec<String> = messages.iter().map(|words| words.join(" ")).collect();
        let (_base, store) = store_of(&[]).unwrap();
        for (n, message) in messages.iter().enumerate() {
            if n == indexed {
                store.update_message_index().unwrap();
            }
            say(&store, message).unwrap();
        }
        for text in texts {
            let text = text.join(" ");
            let mut found: Vec<_> = store.search(&text, usize::MAX).unwrap().iter().map(|hit| hit.position).collect();
            found.sort_unstable();
            prop_assert_eq!(found, brute_force(&messages, &text), "{:?} in {:?}", text, messages);
        }
    }

    #[test]
    fn no_text_breaks_a_search(content in any::<String>(), text in any::<String>()) {
        let (_base, store) = store_of(&[&content]).unwrap();
        store.update_message_index().unwrap();
        for text in [&text, &content] {
            for hit in store.search(text, 10).unwrap() {
                for range in hit.highlights {
                    prop_assert!(hit.snippet.get(range).is_some());
                }
            }
        }
        // Every word of a text finds it.
        let word: String = content.chars().filter(char::is_ascii_alphanumeric).collect();
        if !word.is_empty() && word.len() == content.len() {
            prop_assert_eq!(store.search(&content, 1).unwrap().len(), 1);
        }
    }
}
