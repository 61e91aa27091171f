//! Version numbers of documents.

use serde_json::Value;

/// The major number of a semantic version; `None` where the text is none.
pub(super) fn major(version: &str) -> Option<u64> {
    let core = version.split(['-', '+']).next()?;
    let mut numbers = core.split('.').map(|number| number.parse::<u64>().ok());
    let (major, _, _) = (numbers.next()??, numbers.next()??, numbers.next()??);
    numbers.next().is_none().then_some(major)
}

/// The version in a document, where it is newer than the supported one. Also where it is no version number, but begins as
/// one: `2`, `"2.0"`, `"v2.0.0"`.
pub(super) fn newer(found: &Value, supported: &str) -> Option<String> {
    let found = match found {
        Value::String(version) => version.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let digits = found.trim_start_matches(['v', 'V', ' ']);
    let digits = &digits[..digits.bytes().take_while(u8::is_ascii_digit).count()];
    // Too many digits for a number are a large one.
    let is_newer = !digits.is_empty() && digits.parse().ok().is_none_or(|found| Some(found) > major(supported));
    is_newer.then_some(found)
}
