//! Brace patterns as the webdataset library writes them: `shard-{000000..000099}.tar`, `{train,val}.tar`.

/// More names than any data set has shards; a slip of the finger must not fill the memory.
const MOST: usize = 1_000_000;

/// All names that a pattern stands for, several braces as every combination. A text without braces stands for itself.
pub(crate) fn expand(pattern: &str) -> Result<Vec<String>, &'static str> {
    let mut names = vec![String::new()];
    let mut rest = pattern;
    while let Some((before, tail)) = rest.split_once('{') {
        let (inside, after) = tail.split_once('}').ok_or("a brace is not closed")?;
        let choices = choices(inside)?;
        if names.len() * choices.len() > MOST {
            return Err("it stands for more than a million names");
        }
        names = each_with(&names, before, &choices);
        rest = after;
    }
    Ok(each_with(&names, rest, &[String::new()]))
}

fn each_with(names: &[String], between: &str, choices: &[String]) -> Vec<String> {
    let one = |name: &String| -> Vec<String> {
        let ends = choices.iter();
        ends.map(|choice| format!("{name}{between}{choice}"))
            .collect()
    };
    names.iter().flat_map(one).collect()
}

fn choices(inside: &str) -> Result<Vec<String>, &'static str> {
    if inside.contains('{') {
        return Err("it has braces inside braces");
    }
    if let Some((first, last)) = inside.split_once("..") {
        return range(first, last);
    }
    if inside.contains(',') {
        return Ok(inside.split(',').map(str::to_owned).collect());
    }
    Err("a brace holds neither a range of numbers nor a list with commas")
}

/// The numbers from `first` to `last`, both included; a leading zero asks for equal widths, as in a shell.
fn range(first: &str, last: &str) -> Result<Vec<String>, &'static str> {
    let ([from, to], widths) = ([number(first)?, number(last)?], [first.len(), last.len()]);
    if from > to {
        return Err("a range runs backwards");
    }
    if to - from >= MOST as u64 {
        return Err("it stands for more than a million names");
    }
    let padded = [first, last].map(|text| text.len() > 1 && text.starts_with('0'));
    let width = if padded.contains(&true) {
        widths[0].max(widths[1])
    } else {
        0
    };
    Ok((from..=to).map(|n| format!("{n:0width$}")).collect())
}

fn number(text: &str) -> Result<u64, &'static str> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("a range is not of whole numbers");
    }
    text.parse()
        .map_err(|_| "a range is not of whole numbers, or of too large ones")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_keep_their_zeros() {
        let padded = expand("s-{098..101}.tar").unwrap();
        assert_eq!(padded, ["s-098.tar", "s-099.tar", "s-100.tar", "s-101.tar"]);
        assert_eq!(expand("{8..10}").unwrap(), ["8", "9", "10"]);
        assert_eq!(expand("{0..1}").unwrap(), ["0", "1"]);
        assert_eq!(expand("{00..1}").unwrap(), ["00", "01"]);
    }

    #[test]
    fn several_braces_are_every_combination() {
        let all = expand("{a,b}/{0..1}.tar").unwrap();
        assert_eq!(all, ["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]);
        assert_eq!(expand("plain.tar").unwrap(), ["plain.tar"]);
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        let wrong = [
            "{0..9",
            "{}",
            "{one}",
            "{3..1}",
            "{a..z}",
            "{-1..2}",
            "{0..8..2}",
            "{..}",
            "{{a,b},c}",
            "{0..99999999999999999999}",
            "{0..18446744073709551615}",
            "{0..999999}{0..9}",
        ];
        for pattern in wrong {
            assert!(expand(pattern).is_err(), "{pattern}");
        }
    }
}
