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

/// A picture to ask for. Pictures of the same arguments are one render.
#[derive(Debug)]
pub struct Order {
    /// What stands over it and its neighbours of the same kind.
    pub group: String,
    /// What stands over it alone.
    pub label: String,
    /// Arguments of `likeness renders create`.
    pub args: Vec<String>,
}

/// One row: `own` in a prompt, and what else can be made of the same prompt and seed.
pub fn row(own: Who<'_>, other: Who<'_>, slider: &str, prompt: &str, seed: u64) -> Vec<Order> {
    let order = |group: &str, label: &str, who: &[Who<'_>], more: Option<String>| {
        let said = [format!("--prompt={prompt}"), format!("--seed={seed}")];
        let who = who.iter().map(|who| format!("--identity={}", who.identity));
        Order {
            group: group.to_owned(),
            label: label.to_owned(),
            args: said.into_iter().chain(who).chain(more).collect(),
        }
    };
    let blend = format!("{} + {}", own.label, other.label);
    let mut row = vec![
        order("no identity", "", &[], None),
        order("identity", own.label, &[own], None),
        order("identity", other.label, &[other], None),
        order("blend", &blend, &[own, other], None),
    ];
    // At 0 a slider and the Base-LoRA are not there.
    let sliders = [("-1", true), ("0", false), ("+1", true)].map(|(scale, there)| {
        let argument = there.then(|| format!("--slider={slider}={scale}"));
        order(&format!("slider: {SLIDER}"), scale, &[own], argument)
    });
    let bases = [("0", false), ("0.5", true), ("1", true)].map(|(scale, there)| {
        let argument = there.then(|| format!("--base-scale={scale}"));
        order("base scale", scale, &[own], argument)
    });
    row.extend(sliders.into_iter().chain(bases));
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shares_prompt_and_seed_and_names_what_differs() {
        let [a, b] = [("A", "i/a"), ("B", "i/b")].map(|(label, identity)| Who { label, identity });
        let row = row(a, b, "s/1", "a person", 3);
        let told = |order: &Order| {
            assert_eq!(order.args[..2], ["--prompt=a person", "--seed=3"]);
            let label = format!("{} {}", order.group, order.label);
            format!("{} {}", label.trim(), order.args[2..].join(" "))
        };
        let told: Vec<String> = row.iter().map(told).collect();
        let expected = [
            "no identity ",
            "identity A --identity=i/a",
            "identity B --identity=i/b",
            "blend A + B --identity=i/a --identity=i/b",
            "slider: glasses -1 --identity=i/a --slider=s/1=-1",
            "slider: glasses 0 --identity=i/a",
            "slider: glasses +1 --identity=i/a --slider=s/1=+1",
            "base scale 0 --identity=i/a",
            "base scale 0.5 --identity=i/a --base-scale=0.5",
            "base scale 1 --identity=i/a --base-scale=1",
        ];
        assert_eq!(told, expected);
    }
}
