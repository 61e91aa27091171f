//! What is known of each released migration. A further one adds a line to each list; failing tests print the values.

/// The version of the state document that each schema version holds: the one place that says so.
pub(super) const STATE_VERSIONS: &[(u32, &str)] =
    &[(1, "1.0.0"), (2, "1.0.0"), (3, "1.0.0"), (4, "1.0.0"), (5, "1.0.0")];

/// The checksum of each migration, from when it landed. A migration that has landed is never edited: change the schema by
/// another one.
#[cfg(test)]
pub(super) const CHECKSUMS: &[(&str, u64)] = &[
    ("V1__document", 1785887012989952555),
    ("V2__mode", 646548701978728343),
    ("V3__views", 13977195707923221652),
    ("V4__search", 1840151514790050803),
    ("V5__times", 6016909983872236362),
];

/// The fingerprint of this release's schema without additions. A database that has it needs no comparison with a fresh schema.
/// Where it is that of another version, everything works, and the first write of each process takes milliseconds longer.
pub(in crate::db) const LATEST_FINGERPRINT: u64 = 0x845f_3aaa_d52c_ea6c;
