//! What a render's parameters and what it is rendered with must have to do with each other: identities and sliders.

use super::{MAX_SLIDER_SCALE, MAX_SLIDERS, RenderSpec};
use crate::FieldViolation;

/// Checks the scales of a render's sliders.
///
/// # Errors
/// Every one that is wrong, as `render.sliders[i].scale`, or that there are too many.
pub fn check_sliders(scales: &[f32]) -> Result<(), Vec<FieldViolation>> {
    if scales.len() > MAX_SLIDERS {
        let expected = format!(
            "expected at most {MAX_SLIDERS} sliders, found {}",
            scales.len()
        );
        return Err(vec![violation("sliders", expected)]);
    }
    let fits = |scale: f32| (-MAX_SLIDER_SCALE..=MAX_SLIDER_SCALE).contains(&scale);
    let wrong = scales
        .iter()
        .enumerate()
        .filter(|(_, scale)| !fits(**scale));
    let violations: Vec<_> = wrong
        .map(|(place, _)| {
            let expected =
                format!("expected a number from -{MAX_SLIDER_SCALE} to {MAX_SLIDER_SCALE}");
            violation(&format!("sliders[{place}].scale"), expected)
        })
        .collect();
    if violations.is_empty() {
        Ok(())
    } else {
        Err(violations)
    }
}

/// Checks that a render of so many identities has what its parameters need: the Base-LoRA is made from somebody's photos,
/// and candidates are compared with one person.
///
/// # Errors
/// Every field that asks for what these identities cannot give.
pub fn check_with(spec: &RenderSpec, identities: usize) -> Result<(), Vec<FieldViolation>> {
    let mut violations = Vec::new();
    if spec.base_scale > 0.0 && identities == 0 {
        let expected = "expected 0 without identities: the Base-LoRA is made from their photos";
        violations.push(violation("base_scale", expected.to_owned()));
    }
    if spec.best_of > 1 && identities != 1 {
        let expected = format!(
            "expected exactly one identity, with which candidates are compared, found {identities}"
        );
        violations.push(violation("best_of", expected));
    }
    if violations.is_empty() {
        Ok(())
    } else {
        Err(violations)
    }
}

fn violation(field: &str, description: String) -> FieldViolation {
    FieldViolation {
        field: format!("render.{field}"),
        description,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bundle::RenderDefaults, render::RenderDraft, render::Scheduler};

    fn spec(base_scale: f32, best_of: i32) -> RenderSpec {
        let defaults = RenderDefaults {
            scheduler: Scheduler::Euler,
            steps: 20,
            guidance: 3.5,
            id_scale: 0.8,
            width: 256,
            height: 320,
        };
        let draft = RenderDraft {
            base_scale: Some(base_scale),
            best_of: Some(best_of),
            ..RenderDraft::default()
        };
        draft.resolve("pocket", &defaults, 0).unwrap()
    }

    fn fields(checked: Result<(), Vec<FieldViolation>>) -> Vec<String> {
        let violations = checked.err().unwrap_or_default();
        violations.into_iter().map(|wrong| wrong.field).collect()
    }

    #[test]
    fn sliders_go_so_far_and_are_so_many() {
        assert!(check_sliders(&[-2.0, 0.0, 0.7, 2.0]).is_ok());
        let wrong = check_sliders(&[2.1, 0.0, f32::NAN, f32::NEG_INFINITY]);
        let expected = [0, 2, 3].map(|place| format!("render.sliders[{place}].scale"));
        assert_eq!(fields(wrong), expected);
        assert_eq!(fields(check_sliders(&[0.0; 9])), ["render.sliders"]);
    }

    #[test]
    fn what_needs_somebody_is_refused_without() {
        for identities in [0, 1, 2] {
            assert!(check_with(&spec(0.0, 1), identities).is_ok());
        }
        assert_eq!(
            fields(check_with(&spec(0.5, 2), 0)),
            ["render.base_scale", "render.best_of"]
        );
        assert_eq!(fields(check_with(&spec(0.5, 2), 2)), ["render.best_of"]);
        assert!(check_with(&spec(0.5, 2), 1).is_ok());
    }
}
