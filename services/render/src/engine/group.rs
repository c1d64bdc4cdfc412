//! Which renders can be painted together.

use likeness_domain::render::{RenderSpec, Scheduler};

/// What renders must have in common to walk down the schedule together. Prompts, seeds, guidance values and people may
/// differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    model: String,
    width: u32,
    height: u32,
    steps: u32,
    steps_taken: u32,
    scheduler: Scheduler,
    guided: bool,
}

impl Kind {
    /// The kind of a render.
    pub fn of(spec: &RenderSpec) -> Self {
        Self {
            model: spec.model.clone(),
            width: spec.width,
            height: spec.height,
            steps: spec.steps,
            steps_taken: spec.steps_taken(),
            scheduler: spec.scheduler,
            guided: spec.guidance > 1.0,
        }
    }
}

/// Indices of what belongs together, in order of arrival: of the groups, and within each.
pub fn groups<T>(items: &[T], together: impl Fn(&T, &T) -> bool) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (at, item) in items.iter().enumerate() {
        match groups
            .iter_mut()
            .find(|group| together(&items[group[0]], item))
        {
            Some(group) => group.push(at),
            None => groups.push(vec![at]),
        }
    }
    groups
}

/// How much more a worker may take to what it has taken already: one batch.
#[derive(Debug)]
pub struct Allowance {
    images: usize,
    pixels: usize,
    kind: Option<Kind>,
}

impl Allowance {
    /// So many images at a time, and so many pixels of all of them.
    pub fn new(images: usize, pixels: usize) -> Self {
        Self {
            images,
            pixels,
            kind: None,
        }
    }

    /// Takes one that has been claimed, and says whether to look for another. One of another kind, or beyond the room,
    /// is claimed already and will be painted next; it is the last.
    pub fn take(&mut self, spec: &RenderSpec) -> bool {
        let kind = Kind::of(spec);
        let fits = self.kind.as_ref().is_none_or(|first| *first == kind);
        self.kind.get_or_insert(kind);
        let images = spec.candidates() as usize;
        let area = spec.width as usize * spec.height as usize;
        self.images = self.images.saturating_sub(images);
        self.pixels = self.pixels.saturating_sub(images * area);
        fits && self.images > 0 && self.pixels >= area
    }
}

/// Images `first` to `end` of a render are painted together; after `step` of all of them, what is told: the image and the
/// step to which the work done would have come one by one. So what is told only ever grows, and ends where it should.
pub fn told(first: u32, end: u32, step: u32, steps: u32) -> (u32, u32) {
    let done = first * steps + (end - first) * step;
    let image = (done / steps.max(1)).min(end.saturating_sub(1));
    (image, done - image * steps)
}

#[cfg(test)]
pub mod tests {
    use likeness_domain::render::{ImageFormat, Strength};

    use super::*;

    /// A small render of the pocket bundle.
    pub fn spec() -> RenderSpec {
        RenderSpec {
            model: "pocket".to_owned(),
            id_scale: 0.8,
            base_scale: 0.0,
            prompt: "a portrait".to_owned(),
            negative_prompt: None,
            seed: 3,
            steps: 3,
            guidance: 3.5,
            scheduler: Scheduler::EulerAncestral,
            width: 64,
            height: 64,
            image_count: 1,
            output_format: ImageFormat::Png,
            init_strength: None,
            face_strength: None,
            best_of: 1,
        }
    }

    #[test]
    fn renders_of_one_kind_are_grouped_in_order_of_arrival() {
        let large = RenderSpec {
            width: 128,
            ..spec()
        };
        let seeded = RenderSpec {
            seed: 9,
            prompt: "another".to_owned(),
            guidance: 7.0,
            id_scale: 0.1,
            ..spec()
        };
        let specs = [spec(), large.clone(), seeded, large];
        let found = groups(&specs, |a, b| Kind::of(a) == Kind::of(b));
        assert_eq!(found, [vec![0, 2], vec![1, 3]]);
    }

    #[test]
    fn every_part_of_the_kind_counts() {
        let changes: [fn(&mut RenderSpec); 7] = [
            |spec| spec.model = "other".to_owned(),
            |spec| spec.width = 72,
            |spec| spec.height = 72,
            |spec| spec.steps = 4,
            |spec| spec.scheduler = Scheduler::Ddim,
            |spec| spec.guidance = 1.0,
            |spec| spec.init_strength = Strength::try_from(0.5).ok(),
        ];
        for change in changes {
            let mut other = spec();
            change(&mut other);
            assert_ne!(Kind::of(&other), Kind::of(&spec()), "{other:?}");
        }
    }

    #[test]
    fn renders_are_taken_until_there_are_enough_or_one_is_of_another_kind() {
        let images = |image_count| RenderSpec {
            image_count,
            ..spec()
        };
        let mut allowance = Allowance::new(4, usize::MAX);
        assert!(allowance.take(&images(1)));
        assert!(allowance.take(&images(2)));
        assert!(!allowance.take(&images(2)), "full");
        let best = RenderSpec {
            best_of: 4,
            ..spec()
        };
        assert!(
            !Allowance::new(4, usize::MAX).take(&best),
            "candidates count"
        );
        let mut allowance = Allowance::new(8, 3 * 64 * 64 + 1);
        assert!(allowance.take(&images(2)));
        assert!(!allowance.take(&spec()), "memory for three");
        let mut allowance = Allowance::new(4, usize::MAX);
        assert!(allowance.take(&spec()));
        let other = RenderSpec { steps: 9, ..spec() };
        assert!(!allowance.take(&other));
        assert!(!Allowance::new(1, usize::MAX).take(&spec()));
    }

    #[test]
    fn what_is_told_of_images_painted_together_only_grows() {
        let (first, end, steps) = (2, 5, 4);
        let told: Vec<_> = (1..=steps)
            .map(|step| told(first, end, step, steps))
            .collect();
        assert_eq!(told, [(2, 3), (3, 2), (4, 1), (4, 4)]);
        assert_eq!(super::told(0, 1, 3, 4), (0, 3));
    }
}
