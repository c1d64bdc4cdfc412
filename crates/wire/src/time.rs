//! Points in time and spans, proto ↔ chrono.

use chrono::{DateTime, Utc};
use likeness_domain::FieldViolation;
use prost_types::{Duration, Timestamp};

/// A point in time as sent.
pub fn to_proto(time: DateTime<Utc>) -> Timestamp {
    Timestamp {
        seconds: time.timestamp(),
        nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap_or(0),
    }
}

/// A point in time as received.
///
/// # Errors
/// One that lies outside the years 1 to 9999.
pub fn from_proto(field: &str, time: Timestamp) -> Result<DateTime<Utc>, FieldViolation> {
    let years = -62_135_596_800..=253_402_300_799;
    u32::try_from(time.nanos)
        .ok()
        .filter(|_| years.contains(&time.seconds))
        .and_then(|nanos| DateTime::from_timestamp(time.seconds, nanos))
        .ok_or_else(|| FieldViolation {
            field: field.to_owned(),
            description: "expected a time in the years 1 to 9999".to_owned(),
        })
}

/// Seconds as a proto duration.
pub fn duration(seconds: f64) -> Duration {
    let seconds = if seconds.is_finite() {
        seconds.max(0.0)
    } else {
        0.0
    };
    Duration {
        seconds: seconds.trunc() as i64,
        nanos: (seconds.fract() * 1e9) as i32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_survives_the_wire() {
        let time = DateTime::from_timestamp(1_700_000_000, 123_456_000).unwrap();
        assert_eq!(from_proto("t", to_proto(time)), Ok(time));
    }

    #[test]
    fn impossible_times_are_refused() {
        for (seconds, nanos) in [(i64::MAX, 0), (i64::MIN, 0), (0, -1), (0, 2_000_000_000)] {
            assert!(from_proto("t", Timestamp { seconds, nanos }).is_err());
        }
    }
}
