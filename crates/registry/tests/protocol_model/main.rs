//! Every state that the queue's protocol can reach with a few renders, workers and faults.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a helper of a test fails the test"
)]

mod world;

use std::collections::HashMap;

use stateright::{Checker as _, Model as _};
use world::{Protocol, Rule, World};

/// One render, two workers: what late, repeated and lost attempts can do.
const LATE: Protocol = Protocol {
    renders: 1,
    workers: 2,
    window: 1,
    faults: 3,
    broken: None,
};
/// Two renders, one place: what becomes of the window.
const CROWDED: Protocol = Protocol {
    renders: 2,
    workers: 1,
    window: 1,
    faults: 2,
    broken: None,
};

fn breaking(rule: Rule, model: Protocol) -> Protocol {
    Protocol {
        broken: Some(rule),
        ..model
    }
}

/// Visits everything, and names what does not hold.
fn broken(model: Protocol) -> Vec<&'static str> {
    let checker = model.checker().spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    let properties = checker.model().properties();
    let discoveries = checker.discoveries();
    let always = properties
        .iter()
        .filter(|property| matches!(property.expectation, stateright::Expectation::Always));
    always
        .map(|property| property.name)
        .filter(|name| discoveries.contains_key(name))
        .inspect(|name| println!("{name}: {:?}", discoveries[name].clone().into_actions()))
        .collect()
}

#[test]
fn late_repeated_and_lost_attempts_have_no_effect() {
    LATE.checker().spawn_bfs().join().assert_properties();
}

#[test]
fn the_window_neither_overflows_nor_leaks() {
    CROWDED.checker().spawn_bfs().join().assert_properties();
}

#[test]
fn no_path_goes_round() {
    for (model, faults) in [(LATE, 2), (CROWDED, 1)] {
        assert!(!goes_round(&Protocol { faults, ..model }));
    }
}

#[test]
fn a_broken_rule_is_found() {
    let found = [
        (Rule::CommitFirst, "winners are told the truth"),
        (Rule::Fence, "one effect"),
        (Rule::Reconcile, "every path ends with every render"),
        (Rule::CountRows, "the window holds"),
        (Rule::CountRows, "every path ends with every render"),
        (Rule::Epoch, "the window holds"),
        (Rule::Reap, "every path ends with every render"),
    ];
    for (rule, property) in found {
        let broken = broken(breaking(rule, CROWDED));
        assert!(broken.contains(&property), "{rule:?} broke {broken:?}");
    }
}

/// Whether a state can be reached from itself: a depth-first search that keeps its own path.
fn goes_round(model: &Protocol) -> bool {
    let mut left = HashMap::new();
    let mut path: Vec<(World, Vec<World>)> = Vec::new();
    for first in model.init_states() {
        left.insert(first.clone(), false);
        let next = model.next_states(&first);
        path.push((first, next));
    }
    while let Some((world, next)) = path.last_mut() {
        let Some(after) = next.pop() else {
            left.insert(world.clone(), true);
            path.pop();
            continue;
        };
        match left.get(&after) {
            Some(true) => {}
            Some(false) => return true,
            None => {
                left.insert(after.clone(), false);
                let next = model.next_states(&after);
                path.push((after, next));
            }
        }
    }
    false
}
