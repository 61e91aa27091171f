//! Failures on their way to JavaScript.

use agentmux_state::{Error, Result, to_compact_json};
use serde::Serialize;

/// What `lib/` makes an error of.
#[derive(Serialize)]
struct Failure<'f> {
    code: &'f str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
}

/// An error whose text is the failure as JSON.
pub(crate) fn to_js(error: Error) -> napi::Error {
    napi::Error::from_reason(to_failure(&error))
}

/// The failure as JSON.
pub(crate) fn to_failure(error: &Error) -> String {
    let pid = if let Error::InUse { pid, .. } = error { *pid } else { None };
    let message = error.to_string();
    let failure = Failure { code: error.code(), message, pid };
    serde_json::to_string(&failure).unwrap_or(failure.message)
}

/// Something that cannot be handed over.
pub(crate) fn invalid(what: &str, error: &dyn std::error::Error) -> Error {
    Error::InvalidValue { record: what.to_owned(), detail: error.to_string() }
}

/// A result as JSON text.
pub(crate) fn json(value: &impl Serialize) -> Result<String> {
    to_compact_json(value).map_err(|error| invalid("the result", &error))
}
