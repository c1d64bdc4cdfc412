//! Weights in prompts, as AUTOMATIC1111's web UI writes them.

/// What `(…)` multiplies by, and `[…]` divides by.
const STEP: f64 = 1.1;
/// What the notation is made of; a backslash before a bracket or a backslash makes it plain text.
const SIGNS: [char; 6] = ['\\', '(', ')', '[', ']', ':'];

/// A piece of a prompt and its weight.
#[derive(Clone, PartialEq)]
pub struct Segment {
    /// The text without the notation; never empty.
    pub text: String,
    /// 1 where nothing is said.
    pub weight: f64,
}

/// Reads `(text)`, `(text:1.3)`, `[text]`, nested in any depth, and `\(`, `\)`, `\[`, `\]`, `\\`.
/// What does not fit is taken as that web UI takes it: a closing sign without its opening one and a
/// colon without a number are text, an opening one that is never closed lasts to the end, and a
/// backslash before anything else is dropped. Neighbours of equal weight are one segment.
pub fn segments(prompt: &str) -> Vec<Segment> {
    let mut reader = Reader::default();
    let mut rest = prompt;
    while let Some(sign) = rest.chars().next() {
        rest = reader.take(sign, rest);
    }
    reader.finish()
}

#[derive(Default)]
struct Reader {
    segments: Vec<Segment>,
    /// The number of segments before each bracket that is open.
    round: Vec<usize>,
    square: Vec<usize>,
}

impl Reader {
    /// Takes one sign, or the text up to the next one, from the beginning of `rest`; returns what is
    /// left.
    fn take<'a>(&mut self, sign: char, rest: &'a str) -> &'a str {
        let after = &rest[sign.len_utf8()..];
        match sign {
            '\\' => return self.escaped(after),
            '(' => self.round.push(self.segments.len()),
            '[' => self.square.push(self.segments.len()),
            ')' => match self.round.pop() {
                Some(first) => self.scale(first, STEP),
                None => self.push(")"),
            },
            ']' => match self.square.pop() {
                Some(first) => self.scale(first, 1.0 / STEP),
                None => self.push("]"),
            },
            ':' => return self.colon(after),
            _ => {
                let end = rest.find(SIGNS).unwrap_or(rest.len());
                self.push(&rest[..end]);
                return &rest[end..];
            }
        }
        after
    }

    fn escaped<'a>(&mut self, after: &'a str) -> &'a str {
        if !after.starts_with(['\\', '(', ')', '[', ']']) {
            return after;
        }
        self.push(&after[..1]);
        &after[1..]
    }

    /// A colon begins a weight only where a number and the closing bracket follow.
    fn colon<'a>(&mut self, after: &'a str) -> &'a str {
        let weight = closing_weight(after).zip(self.round.last().copied());
        let Some(((weight, behind), first)) = weight else {
            self.push(":");
            return after;
        };
        self.round.pop();
        self.scale(first, weight);
        behind
    }

    fn push(&mut self, text: &str) {
        self.segments.push(Segment {
            text: text.to_owned(),
            weight: 1.0,
        });
    }

    fn scale(&mut self, first: usize, factor: f64) {
        for segment in self.segments.iter_mut().skip(first) {
            segment.weight *= factor;
        }
    }

    fn finish(mut self) -> Vec<Segment> {
        while let Some(first) = self.round.pop() {
            self.scale(first, STEP);
        }
        while let Some(first) = self.square.pop() {
            self.scale(first, 1.0 / STEP);
        }
        let mut merged: Vec<Segment> = Vec::new();
        for segment in self.segments {
            match merged.last_mut() {
                Some(last) if (last.weight - segment.weight) == 0.0 => {
                    last.text.push_str(&segment.text);
                }
                _ => merged.push(segment),
            }
        }
        merged
    }
}

/// The number that `text` begins with, if `)` follows it, and what stands behind.
pub fn closing_weight(text: &str) -> Option<(f64, &str)> {
    let of_number = |c: char| c.is_ascii_digit() || matches!(c, '.' | '+' | '-');
    let end = text.find(|c: char| !of_number(c) && !c.is_whitespace())?;
    let behind = text[end..].strip_prefix(')')?;
    Some((text[..end].trim().parse().ok()?, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(prompt: &str) -> Vec<(String, f64)> {
        segments(prompt)
            .into_iter()
            .map(|s| (s.text, s.weight))
            .collect()
    }

    #[track_caller]
    fn check(prompt: &str, expected: &[(&str, f64)]) {
        let found = read(prompt);
        let texts: Vec<&str> = found.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(
            texts,
            expected.iter().map(|(text, _)| *text).collect::<Vec<_>>(),
            "{prompt}"
        );
        for ((_, found), (_, expected)) in found.iter().zip(expected) {
            assert!(
                (found - expected).abs() < 1e-12,
                "{prompt}: {found} {expected}"
            );
        }
    }

    #[test]
    fn brackets_weigh_what_they_hold() {
        check("plain text", &[("plain text", 1.0)]);
        check("a (b) c", &[("a ", 1.0), ("b", 1.1), (" c", 1.0)]);
        check("((b))", &[("b", 1.21)]);
        check("[b]", &[("b", 1.0 / 1.1)]);
        check("a (b:1.3)", &[("a ", 1.0), ("b", 1.3)]);
        check("(b: .5 )", &[("b", 0.5)]);
        check("(b:-0.5)", &[("b", -0.5)]);
        check(
            "(a (b:1.5) [c]:2)",
            &[("a ", 2.0), ("b", 3.0), (" ", 2.0), ("c", 2.0 / 1.1)],
        );
        check("([b])", &[("b", 1.0)]);
    }

    #[test]
    fn escapes_and_lone_signs_are_text() {
        check(r"a \(b\) \[c\] \\", &[(r"a (b) [c] \", 1.0)]);
        check(r"(a\):1.5)", &[("a)", 1.5)]);
        check(r"a\b\", &[("ab", 1.0)]);
        check("a) b] c:1.2) d: e", &[("a) b] c:1.2) d: e", 1.0)]);
        check("[b:1.5]", &[("b:1.5", 1.0 / 1.1)]);
        check("(b:1.2.3)", &[("b:1.2.3", 1.1)]);
        check("(b:inf)", &[("b:inf", 1.1)]);
        check("(b:1e3)", &[("b:1e3", 1.1)]);
    }

    #[test]
    fn what_is_not_closed_lasts_to_the_end() {
        check("a (b", &[("a ", 1.0), ("b", 1.1)]);
        check("a ((b:1.5", &[("a ", 1.0), ("b:1.5", 1.21)]);
        check("a [b (c", &[("a ", 1.0), ("b ", 1.0 / 1.1), ("c", 1.0)]);
        check("(a ] b)", &[("a ] b", 1.1)]);
        check("", &[]);
        check("(([])", &[]);
    }

    #[test]
    fn any_text_can_be_read() {
        let letters: Vec<char> = r"()[]\:1.+-aé字  ".chars().chain(['\0', '\n']).collect();
        let mut state = 1u64;
        for length in (0..400).cycle().take(20_000) {
            let text: String = (0..length % 40)
                .map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    letters[(state >> 33) as usize % letters.len()]
                })
                .collect();
            for segment in segments(&text) {
                assert!(!segment.text.is_empty() && !segment.weight.is_nan());
            }
        }
        let deep = segments(&format!("{}x", "(".repeat(10_000)));
        assert!(deep.len() == 1 && deep[0].weight.is_infinite());
    }
}
