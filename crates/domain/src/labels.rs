//! The tenant's own labels on identities and renders.

use std::collections::BTreeMap;

use crate::FieldViolation;

/// Keys and values, sorted by key.
pub type Labels = BTreeMap<String, String>;

const MAX_LABELS: usize = 64;
const MAX_LENGTH: usize = 128;

/// Adds what is wrong with labels: 64 at most, keys 1 to 128 and values up to 128 bytes long.
pub fn check(field: &str, labels: &Labels, violations: &mut Vec<FieldViolation>) {
    let mut report = |description: String| {
        violations.push(FieldViolation {
            field: field.to_owned(),
            description,
        });
    };
    if labels.len() > MAX_LABELS {
        report(format!(
            "expected at most {MAX_LABELS} labels, found {}",
            labels.len()
        ));
    }
    if labels
        .keys()
        .any(|key| key.is_empty() || key.len() > MAX_LENGTH)
    {
        report(format!("expected keys of 1 to {MAX_LENGTH} bytes"));
    }
    if labels.values().any(|value| value.len() > MAX_LENGTH) {
        report(format!("expected values of at most {MAX_LENGTH} bytes"));
    }
}
