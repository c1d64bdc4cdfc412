//! Gradients without the memory of a whole forward pass (Chen et al., 2016): the pass is cut into segments, only what lies
//! between them is kept, and each is run once more, with its graph, when its gradient is due.

use candle_core::{Result as Compute, Tensor, Var};

use super::{Conditioning, Context, UNet};
use crate::Error;
use crate::merge::Unmerged;

/// What a segment gives: what the next one takes, and what is held for later ones.
type Given = (Tensor, Vec<Tensor>);

/// What a segment does with what comes in, and with all that is held.
type Work<'a> = dyn Fn(&Tensor, &[Tensor], &Pass<'_>) -> Compute<Given> + 'a;

/// A piece of the forward pass.
pub(super) struct Segment<'a> {
    /// So many of what is held are taken off its end.
    pub takes: usize,
    /// Whether there is an attention in it.
    pub attends: bool,
    pub run: Box<Work<'a>>,
}

/// What is the same for all segments.
pub(super) struct Pass<'a> {
    /// SiLU of the time embedding.
    pub time: Tensor,
    pub context: Context<'a>,
}

impl<'a> Segment<'a> {
    /// One that takes nothing off.
    pub fn plain(
        attends: bool,
        run: impl Fn(&Tensor, &[Tensor], &Pass<'_>) -> Compute<Given> + 'a,
    ) -> Segment<'a> {
        let run = Box::new(run);
        Segment {
            takes: 0,
            attends,
            run,
        }
    }

    /// One that takes the last of what is held.
    pub fn taking(run: impl Fn(&Tensor, &Tensor, &Pass<'_>) -> Compute<Given> + 'a) -> Segment<'a> {
        Segment {
            takes: 1,
            attends: false,
            run: Box::new(move |x, held, pass| match held.last() {
                Some(last) => run(x, last, pass),
                None => candle_core::bail!("nothing is held for this segment"),
            }),
        }
    }
}

/// `x`, held for later, too, if it `keeps`.
pub(super) fn given(x: Tensor, keeps: bool) -> Given {
    let held = keeps.then(|| x.clone()).into_iter().collect();
    (x, held)
}

/// What went into a segment.
struct Border {
    x: Tensor,
    held: Vec<Tensor>,
}

impl UNet {
    /// The gradients of a batch's own terms ([`UNet::batch_terms`]) for a loss of the predicted noise, with the memory of one
    /// segment (a residual block, or one block of a transformer) and of what lies between all of them. `slope` gives the
    /// loss's gradient by the predicted noise [b, 4, h, w]. What comes back is every factor of `own` with its gradient. The UNet
    /// runs twice.
    ///
    /// # Errors
    /// Shapes that do not fit; a failing device; whatever `slope` gives.
    pub fn descend<E: From<Error>>(
        &self,
        latents: &Tensor,
        timesteps: &[f32],
        conditioning: &Conditioning,
        own: &Unmerged,
        slope: impl FnOnce(&Tensor) -> Result<Tensor, E>,
    ) -> Result<Vec<(Tensor, Tensor)>, E> {
        let segments = self.segments();
        let time = self.embed_time(timesteps, conditioning, latents.dtype());
        let time = time.map_err(Error::from)?;
        let (leaves, factors) = own.leaves().map_err(Error::from)?;
        let terms = [Some(&leaves)];
        let context = Context {
            matrices: &self.matrices,
            text: &conditioning.text,
            unmerged: &terms,
        };
        let pass = Pass { time, context };
        let (borders, told) = forward(&segments, latents, &pass).map_err(Error::from)?;
        let slope = slope(&told)?;
        let found = backward(&segments, borders, slope, &pass, &factors);
        Ok(found.map_err(Error::from)?)
    }

    /// [`UNet::forward`] in pieces.
    fn segments(&self) -> Vec<Segment<'_>> {
        let mut segments = vec![Segment::plain(false, |x, _, _| {
            Ok(given(self.conv_in.forward(x)?, true))
        })];
        for block in &self.down {
            block.segments(&mut segments);
        }
        self.mid.segments(&mut segments);
        for block in &self.up {
            block.segments(&mut segments);
        }
        segments.push(Segment::plain(false, |x, _, _| {
            let told = self.conv_out.forward(&self.norm_out.forward_silu(x)?)?;
            Ok(given(told, false))
        }));
        segments
    }
}

/// What goes into every segment, and what comes out of the last one; a segment's graph goes with it. Behind the first segment with
/// an attention, what goes in is a variable already: an operation that is another one where gradients are asked for is so both
/// times, and no number differs from a pass in one piece.
fn forward(
    segments: &[Segment<'_>],
    latents: &Tensor,
    pass: &Pass<'_>,
) -> Compute<(Vec<Border>, Tensor)> {
    let mut x = latents.detach();
    let mut held: Vec<Tensor> = Vec::new();
    let mut borders = Vec::with_capacity(segments.len());
    let mut learns = false;
    for segment in segments {
        borders.push(Border {
            x: x.clone(),
            held: held.clone(),
        });
        let (next, more) = (segment.run)(&x, &held, pass)?;
        held.truncate(held.len().saturating_sub(segment.takes));
        held.extend(more.iter().map(Tensor::detach));
        learns |= segment.attends;
        x = next.detach();
        if learns {
            x = Var::from_tensor(&x)?.into_inner();
        }
    }
    Ok((borders, x.detach()))
}

/// The factors with their gradients, from the last segment to the first with an attention: before it nothing is learnt.
fn backward(
    segments: &[Segment<'_>],
    mut borders: Vec<Border>,
    slope: Tensor,
    pass: &Pass<'_>,
    factors: &[(Tensor, Var)],
) -> Compute<Vec<(Tensor, Tensor)>> {
    let first = segments.iter().position(|segment| segment.attends);
    let first = first.unwrap_or(segments.len());
    let mut of_x = slope;
    // Of what is held behind the segment at hand, in its order.
    let mut of_held: Vec<Tensor> = Vec::new();
    let mut found = Vec::with_capacity(factors.len());
    for number in (first..segments.len()).rev() {
        let (segment, Some(border)) = (&segments[number], borders.pop()) else {
            break;
        };
        let x = border.x;
        let mut held = border.held;
        let left = held.len().saturating_sub(segment.takes);
        let taken = held.split_off(left).into_iter();
        let taken = taken.map(|held| Var::from_tensor(&held));
        let taken = taken.collect::<Compute<Vec<_>>>()?;
        held.extend(taken.iter().map(|var| var.as_tensor().clone()));
        let (y, more) = (segment.run)(&x, &held, pass)?;
        let of_more = of_held.split_off(left);
        let mut sum = (y * &of_x)?.sum_all()?;
        for (more, of_more) in more.iter().zip(&of_more) {
            sum = (sum + (more * of_more)?.sum_all()?)?;
        }
        let mut store = sum.backward()?;
        // What a segment does not look at has none, nor has what went into the first one.
        let mut take = |x: &Tensor| match store.remove(x) {
            Some(gradient) => Ok(gradient.detach()),
            None => x.zeros_like(),
        };
        of_x = take(&x)?;
        for var in &taken {
            of_held.push(take(var)?);
        }
        for (factor, leaf) in factors {
            if let Some(gradient) = store.remove(leaf) {
                found.push((factor.clone(), gradient.detach()));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
