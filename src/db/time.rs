//! Times in SQL: one notion of a readable time, the same as [`Timestamp::parse`](crate::model::Timestamp::parse).
//!
//! SQLite's `unixepoch` alone accepts more: `now`, numbers, 30 February, 24:00, and times without an offset. The views have
//! the same condition.

/// An expression: the Unix time of a column in seconds, NULL where it holds no readable time.
macro_rules! unix_time {
    ($column:literal) => {
        concat!("iif(", $crate::db::time::is_readable!($column), ", unixepoch(", $column, "), NULL)")
    };
}

/// A condition: whether a column holds a readable time, as far as `unixepoch` does not tell. Without a modifier, the `date` of
/// SQLite 3.40 leaves 30 February as it is.
macro_rules! is_readable {
    ($column:literal) => {
        concat!(
            "date(substr(",
            $column,
            ", 1, 10), '+0 days') = substr(",
            $column,
            ", 1, 10) AND substr(",
            $column,
            ", 12, 2) < '24' ",
            "AND (length(",
            $column,
            ") = 10 OR ",
            $column,
            " GLOB '??????????T[0-9]*[Zz]' ",
            "OR ",
            $column,
            " GLOB '??????????T[0-9]*[-+]??:??') ",
            "AND ",
            $column,
            " NOT GLOB '*[^-0-9T:.Zz+]*' AND instr(",
            $column,
            ", char(0)) = 0"
        )
    };
}

/// A condition: whether a conversation's last activity is a readable time; with the words of the index on it.
macro_rules! has_activity {
    () => {
        concat!(
            "last_activity_at GLOB '[0-9][0-9][0-9][0-9]-*' AND ",
            $crate::db::time::is_readable!("last_activity_at")
        )
    };
}

pub(crate) use {has_activity, is_readable, unix_time};

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rusqlite::Connection;

    use crate::db::migrations;
    use crate::model::Timestamp;

    /// Texts, and whether they are readable times.
    const TEXTS: &[(&str, bool)] = &[
        ("2026-11-22T10:00:00.000Z", true),
        ("2026-11-22T10:00:00Z", true),
        ("2026-11-22T10:00Z", true),
        ("2026-11-22", true),
        ("2024-02-29", true),
        ("2026-11-22T23:59:59.999999999999+14:59", true),
        ("2026-11-22T00:00:00.1-05:30", true),
        ("0000-01-01T00:00:00Z", true),
        ("9999-12-31T23:59:59Z", true),
        ("", false),
        ("now", false),
        ("0", false),
        ("2460000.5", false),
        ("1764000000000", false),
        ("yesterday", false),
        ("2026-02-30", false),
        ("2026-02-30T10:00:00.000Z", false),
        ("2025-02-29T10:00:00.000Z", false),
        ("2026-04-31T10:00:00Z", false),
        ("2026-00-10", false),
        ("2026-13-01T10:00:00Z", false),
        ("2026-11-00T10:00:00Z", false),
        ("2026-11-22T24:00:00Z", false),
        ("2026-11-22T10:60:00Z", false),
        ("2026-11-22T10:00:60Z", false),
        ("2026-11-22T10:00:00", false),
        ("2026-11-22 10:00:00Z", false),
        ("2026-11-22t10:00:00Z", false),
        ("2026-11-22TT10:00:00Z", false),
        ("2026-11-22T10:00:00 Z", false),
        ("2026-11-22T10:00:00Z ", false),
        (" 2026-11-22", false),
        ("2026-11-22T10:00:00.Z", false),
        ("2026-11-22T10:00:00+15:00", false),
        ("2026-11-22T10:00:00+0200", false),
        ("2026-11-22T10:00:00+02:60", false),
        ("2026-11-22T", false),
        ("2026-11-22\0", false),
        ("2026-11-22T10:00:00Z\0", false),
        ("2026-11-22T10:00:00\u{ff}Z", false),
        ("2026-11-22T10Z", false),
        ("10:00", false),
        ("2026-11", false),
        ("+2026-11-22", false),
        ("-2026-11-22T10:00:00Z", false),
    ];

    #[test]
    fn sql_and_the_library_agree_on_every_text() {
        let conn = Connection::open_in_memory().unwrap();
        let mut select = conn.prepare(concat!("SELECT ", unix_time!("at"), " FROM (SELECT ?1 AS at)")).unwrap();
        let mut check = |text: &str| {
            let by_sql: Option<i64> = select.query_row([text], |row| row.get(0)).unwrap();
            let by_library = Timestamp::from(text).parse().map(|at| at.timestamp());
            assert_eq!(by_sql.is_some(), by_library.is_some(), "{text:?}: {by_sql:?} {by_library:?}");
            // SQLite rounds to milliseconds first.
            let apart = by_sql.zip(by_library).map_or(0, |(a, b)| a - b);
            assert!((0..=1).contains(&apart), "{text:?}: {by_sql:?} {by_library:?}");
            by_library.is_some()
        };
        for (text, readable) in TEXTS {
            assert_eq!(check(text), *readable, "{text:?}");
        }
        // Texts that are nearly times: each of them with some characters changed, added, removed.
        let mut seed = 7_u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        let characters: Vec<char> = "0123456789-+:.TtZz \t\n\0é/".chars().collect();
        let mut readable = 0;
        for _ in 0..200_000 {
            let mut text: Vec<char> = TEXTS[random(TEXTS.len())].0.chars().collect();
            for _ in 0..=random(2) {
                let at = random(text.len() + 1);
                match random(3) {
                    0 if at < text.len() => text[at] = characters[random(characters.len())],
                    1 if at < text.len() => drop(text.remove(at)),
                    _ => text.insert(at, characters[random(characters.len())]),
                }
            }
            readable += u32::from(check(&text.into_iter().collect::<String>()));
        }
        assert!(readable > 2_000, "{readable}");
    }

    #[test]
    fn the_index_on_the_last_activity_is_used() {
        let release = migrations::release();
        let conn = release.fresh(release.latest_version(), std::path::Path::new("")).unwrap();
        let plan = |sql: &str| -> String {
            let mut select = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let rows = select.query_map([], |row| row.get::<_, String>(3)).unwrap();
            rows.map(Result::unwrap).collect::<Vec<_>>().join("\n")
        };
        for sql in [
            concat!("SELECT id FROM conversations WHERE ", has_activity!(), " AND unixepoch(last_activity_at) >= 1"),
            concat!("SELECT id FROM conversations WHERE ", has_activity!(), " AND unixepoch(last_activity_at) < 1"),
            "SELECT * FROM resumable",
        ] {
            let plan = plan(sql);
            assert!(plan.contains("USING INDEX conversations_by_activity"), "{sql}: {plan}");
        }
    }
}
