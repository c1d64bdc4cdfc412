//! The renders of a row of the sheet.

use super::people::SLIDER;

/// Who can be asked for: what the sheet calls the person, and the identity.
#[derive(Clone, Copy)]
pub struct Who<'a> {
    /// On the sheet.
    pub label: &'a str,
    /// `tenants/…/identities/…`
    pub identity: &'a str,
}

/// A render to ask for.
#[derive(Debug, PartialEq)]
pub struct Order {
    /// What stands over it.
    pub label: String,
    /// Arguments of `likeness renders create`.
    pub args: Vec<String>,
}

/// One row: `own` in a prompt, and what else can be made of the same prompt and seed.
pub fn row(own: Who<'_>, other: Who<'_>, slider: &str, prompt: &str, seed: usize) -> Vec<Order> {
    let order = |label: String, identities: &[Who<'_>], more: &[String]| {
        let mut args = vec![format!("--prompt={prompt}"), format!("--seed={seed}")];
        args.extend(
            identities
                .iter()
                .map(|who| format!("--identity={}", who.identity)),
        );
        args.extend_from_slice(more);
        Order { label, args }
    };
    let mut row = vec![
        order("no identity".to_owned(), &[], &[]),
        order(format!("identity {}", own.label), &[own], &[]),
        order(format!("identity {}", other.label), &[other], &[]),
        order(
            format!("{} + {}", own.label, other.label),
            &[own, other],
            &[],
        ),
    ];
    row.extend(["-1", "0", "+1"].map(|scale| {
        let argument = format!("--slider={slider}={scale}");
        order(format!("{SLIDER} {scale}"), &[own], &[argument])
    }));
    row.extend(["0", "0.5", "1"].map(|scale| {
        let argument = format!("--base-scale={scale}");
        order(format!("base scale {scale}"), &[own], &[argument])
    }));
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shares_prompt_and_seed_and_names_what_differs() {
        let [a, b] = [("A", "i/a"), ("B", "i/b")].map(|(label, identity)| Who { label, identity });
        let row = row(a, b, "s/1", "a person", 3);
        let labels: Vec<&str> = row.iter().map(|order| order.label.as_str()).collect();
        let expected = [
            "no identity",
            "identity A",
            "identity B",
            "A + B",
            "glasses -1",
            "glasses 0",
            "glasses +1",
            "base scale 0",
            "base scale 0.5",
            "base scale 1",
        ];
        assert_eq!(labels, expected);
        for order in &row {
            assert_eq!(order.args[..2], ["--prompt=a person", "--seed=3"]);
        }
        assert_eq!(row[3].args[2..], ["--identity=i/a", "--identity=i/b"]);
        assert_eq!(row[4].args[2..], ["--identity=i/a", "--slider=s/1=-1"]);
        assert_eq!(row[9].args[2..], ["--identity=i/a", "--base-scale=1"]);
    }
}
