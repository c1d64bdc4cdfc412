//! For other processors: there is no such convolution.

/// Never exists.
#[derive(Clone, Copy)]
pub enum Direct {}

impl Direct {
    /// None.
    pub fn of(_: (usize, usize), _: (usize, usize)) -> Option<Direct> {
        None
    }

    /// Never called.
    pub fn run(self, _: &[f32], _: &[f32], _: &mut [f32]) {
        match self {}
    }

    /// Never called.
    pub fn add_weight_gradient(self, _: &[f32], _: &[f32], _: &mut [f32]) {
        match self {}
    }
}
