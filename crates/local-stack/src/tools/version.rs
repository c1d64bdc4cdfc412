//! Versions as the servers print them.

use std::fmt;

/// Major and minor number; ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number, 0 where none is printed.
    pub minor: u32,
}

impl Version {
    /// A version from its two numbers.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// The first version in what a program prints for `--version`: `postgres (PostgreSQL) 15.18
    /// (Debian …)`, `postgres (PostgreSQL) 19beta1`, `nats-server: v2.15.1`.
    pub fn parse(printed: &str) -> Option<Self> {
        printed.split_whitespace().find_map(|word| {
            let word = word.strip_prefix('v').unwrap_or(word);
            let mut numbers = word.split('.');
            let major = leading_number(numbers.next()?)?;
            let minor = numbers.next().and_then(leading_number).unwrap_or(0);
            Some(Self { major, minor })
        })
    }
}

fn leading_number(text: &str) -> Option<u32> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text[..end].parse().ok()
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_servers_print_them() {
        let cases = [
            (
                "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n",
                Some((15, 18)),
            ),
            ("postgres (PostgreSQL) 18.4\n", Some((18, 4))),
            ("postgres (PostgreSQL) 19beta1\n", Some((19, 0))),
            ("nats-server: v2.15.1\n", Some((2, 15))),
            ("nats-server: v2.11.0-RC.3", Some((2, 11))),
            ("", None),
            ("command not found", None),
        ];
        for (printed, expected) in cases {
            let expected = expected.map(|(major, minor)| Version::new(major, minor));
            assert_eq!(Version::parse(printed), expected, "{printed:?}");
        }
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(Version::new(2, 9) < Version::new(2, 11));
        assert!(Version::new(15, 0) < Version::new(18, 4));
    }
}
