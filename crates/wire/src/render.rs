//! Renders, domain ↔ proto.

use likeness_domain::{
    Error, FieldViolation, RenderState,
    bundle::RenderDefaults,
    render::{
        ImageFormat, Priority, RenderDraft, RenderProgress, RenderTimings, Scheduler, Strength,
    },
};

use crate::{time, v1};

/// A render's state as sent.
pub fn state(state: RenderState) -> v1::RenderState {
    match state {
        RenderState::Queued => v1::RenderState::Queued,
        RenderState::Dispatched => v1::RenderState::Dispatched,
        RenderState::Running => v1::RenderState::Running,
        RenderState::Succeeded => v1::RenderState::Succeeded,
        RenderState::Failed => v1::RenderState::Failed,
        RenderState::Cancelled => v1::RenderState::Cancelled,
        RenderState::Expired => v1::RenderState::Expired,
    }
}

/// A render's state as received, in a filter.
///
/// # Errors
/// A value that names no state.
pub fn state_from(state: i32) -> Result<RenderState, Error> {
    match v1::RenderState::try_from(state) {
        Ok(v1::RenderState::Queued) => Ok(RenderState::Queued),
        Ok(v1::RenderState::Dispatched) => Ok(RenderState::Dispatched),
        Ok(v1::RenderState::Running) => Ok(RenderState::Running),
        Ok(v1::RenderState::Succeeded) => Ok(RenderState::Succeeded),
        Ok(v1::RenderState::Failed) => Ok(RenderState::Failed),
        Ok(v1::RenderState::Cancelled) => Ok(RenderState::Cancelled),
        Ok(v1::RenderState::Expired) => Ok(RenderState::Expired),
        Ok(v1::RenderState::Unspecified) | Err(_) => {
            Err(Error::invalid_field("states", "expected render states"))
        }
    }
}

/// A scheduler as sent.
pub fn scheduler(scheduler: Scheduler) -> v1::Scheduler {
    match scheduler {
        Scheduler::Ddim => v1::Scheduler::Ddim,
        Scheduler::Euler => v1::Scheduler::Euler,
        Scheduler::EulerKarras => v1::Scheduler::EulerKarras,
        Scheduler::EulerAncestral => v1::Scheduler::EulerAncestral,
        Scheduler::Dpmpp2m => v1::Scheduler::Dpmpp2m,
        Scheduler::Dpmpp2mKarras => v1::Scheduler::Dpmpp2mKarras,
        Scheduler::Lcm => v1::Scheduler::Lcm,
    }
}

fn scheduler_from(scheduler: i32) -> Result<Option<Scheduler>, FieldViolation> {
    Ok(match v1::Scheduler::try_from(scheduler) {
        Ok(v1::Scheduler::Unspecified) => None,
        Ok(v1::Scheduler::Ddim) => Some(Scheduler::Ddim),
        Ok(v1::Scheduler::Euler) => Some(Scheduler::Euler),
        Ok(v1::Scheduler::EulerKarras) => Some(Scheduler::EulerKarras),
        Ok(v1::Scheduler::EulerAncestral) => Some(Scheduler::EulerAncestral),
        Ok(v1::Scheduler::Dpmpp2m) => Some(Scheduler::Dpmpp2m),
        Ok(v1::Scheduler::Dpmpp2mKarras) => Some(Scheduler::Dpmpp2mKarras),
        Ok(v1::Scheduler::Lcm) => Some(Scheduler::Lcm),
        Err(_) => return Err(violation("render.scheduler", "expected a known scheduler")),
    })
}

/// An image format as sent.
pub fn image_format(format: ImageFormat) -> v1::ImageFormat {
    match format {
        ImageFormat::Png => v1::ImageFormat::Png,
        ImageFormat::Jpeg => v1::ImageFormat::Jpeg,
        ImageFormat::Webp => v1::ImageFormat::Webp,
    }
}

fn image_format_from(format: i32) -> Result<Option<ImageFormat>, FieldViolation> {
    Ok(match v1::ImageFormat::try_from(format) {
        Ok(v1::ImageFormat::Unspecified) => None,
        Ok(v1::ImageFormat::Png) => Some(ImageFormat::Png),
        Ok(v1::ImageFormat::Jpeg) => Some(ImageFormat::Jpeg),
        Ok(v1::ImageFormat::Webp) => Some(ImageFormat::Webp),
        Err(_) => {
            return Err(violation(
                "render.output_format",
                "expected PNG, JPEG or WEBP",
            ));
        }
    })
}

/// A priority as sent.
pub fn priority(priority: Priority) -> v1::RenderPriority {
    match priority {
        Priority::Interactive => v1::RenderPriority::Interactive,
        Priority::Normal => v1::RenderPriority::Normal,
        Priority::Bulk => v1::RenderPriority::Bulk,
    }
}

/// A priority as received.
///
/// # Errors
/// A value that this version does not know.
pub fn priority_from(priority: i32) -> Result<Priority, FieldViolation> {
    match v1::RenderPriority::try_from(priority) {
        Ok(v1::RenderPriority::Unspecified | v1::RenderPriority::Normal) => Ok(Priority::Normal),
        Ok(v1::RenderPriority::Interactive) => Ok(Priority::Interactive),
        Ok(v1::RenderPriority::Bulk) => Ok(Priority::Bulk),
        Err(_) => Err(violation(
            "render.priority",
            "expected INTERACTIVE, NORMAL or BULK",
        )),
    }
}

/// What a request says of the picture.
///
/// # Errors
/// Every enumerated field with a value that this version does not know.
pub fn draft(render: &v1::Render) -> Result<RenderDraft, Vec<FieldViolation>> {
    let scheduler = scheduler_from(render.scheduler);
    let format = image_format_from(render.output_format);
    match (scheduler, format) {
        (Ok(scheduler), Ok(output_format)) => Ok(RenderDraft {
            id_scale: render.id_scale,
            base_scale: render.base_scale,
            prompt: render.prompt.clone(),
            negative_prompt: render.negative_prompt.clone(),
            seed: render.seed,
            steps: render.steps,
            guidance: render.guidance,
            scheduler,
            width: render.width,
            height: render.height,
            image_count: render.image_count,
            output_format,
            init_strength: render.init_image.as_ref().map(|init| init.strength),
            face_strength: render.face_detail.map(|detail| detail.strength),
            best_of: render.best_of,
        }),
        (scheduler, format) => Err([scheduler.err(), format.err()]
            .into_iter()
            .flatten()
            .collect()),
    }
}

/// The start picture as sent back: how much of it may change. The picture itself is input only.
pub fn init_image(strength: Strength) -> v1::InitImage {
    v1::InitImage {
        image: Vec::new().into(),
        strength: strength.get() as f32,
    }
}

/// The second pass over faces as sent back.
pub fn face_detail(strength: Strength) -> v1::FaceDetail {
    v1::FaceDetail {
        strength: strength.get() as f32,
    }
}

/// Progress as sent.
pub fn progress(progress: RenderProgress) -> v1::RenderProgress {
    v1::RenderProgress {
        image: signed(progress.image),
        image_count: signed(progress.image_count),
        step: signed(progress.step),
        steps: signed(progress.steps),
    }
}

/// Timings as sent; `queued` in seconds.
pub fn timings(timings: RenderTimings, queued: f64) -> v1::RenderTimings {
    v1::RenderTimings {
        queued: Some(time::duration(queued)),
        synthesis: Some(time::duration(timings.synthesis)),
        merge: Some(time::duration(timings.merge)),
        sampling: Some(time::duration(timings.sampling)),
        encoding: Some(time::duration(timings.encoding)),
        upload: Some(time::duration(timings.upload)),
    }
}

/// A bundle's defaults as sent.
pub fn defaults(defaults: &RenderDefaults) -> v1::RenderDefaults {
    v1::RenderDefaults {
        id_scale: defaults.id_scale,
        steps: signed(defaults.steps),
        guidance: defaults.guidance,
        scheduler: scheduler(defaults.scheduler).into(),
        width: signed(defaults.width),
        height: signed(defaults.height),
    }
}

fn violation(field: &str, description: &str) -> FieldViolation {
    FieldViolation {
        field: field.to_owned(),
        description: description.to_owned(),
    }
}

fn signed(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_enum_values_are_all_named() {
        let render = v1::Render {
            scheduler: 99,
            output_format: 99,
            ..v1::Render::default()
        };
        assert_eq!(draft(&render).unwrap_err().len(), 2);
    }

    #[test]
    fn strengths_go_out_as_they_came_in_and_pictures_do_not() {
        let render = v1::Render {
            init_image: Some(v1::InitImage {
                image: vec![1, 2, 3].into(),
                strength: 0.35,
            }),
            face_detail: Some(v1::FaceDetail { strength: 0.4 }),
            ..v1::Render::default()
        };
        let draft = draft(&render).unwrap();
        let [init, face] = [draft.init_strength, draft.face_strength]
            .map(|strength| Strength::from_wire(strength.unwrap()).unwrap());
        assert_eq!(face_detail(face), render.face_detail.unwrap());
        let sent = init_image(init);
        assert!(sent.image.is_empty());
        assert!((sent.strength - 0.35).abs() < f32::EPSILON);
    }

    #[test]
    fn every_state_goes_out_and_comes_back() {
        for known in RenderState::ALL {
            assert_eq!(state_from(state(*known).into()).unwrap(), *known);
        }
        assert!(state_from(0).is_err());
    }
}
