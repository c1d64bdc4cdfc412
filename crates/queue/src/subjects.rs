//! Every subject, in one place, each with the type of what it carries.

use std::{fmt, marker::PhantomData};

use likeness_domain::{IdentityId, RenderId};

use crate::{
    messages::{
        CancelNotice, ClaimReply, ClaimRequest, CoefficientsReply, CoefficientsRequest,
        FinishReply, FinishRequest, Hello, HelloReply, IdentityEvent, Progress, RenderEvent,
        RenewReply, RenewRequest, Wake,
    },
    names::{Namespace, PoolName},
};

/// A core subject that carries `T`, unstored: whoever listens gets it.
pub struct Topic<T> {
    subject: String,
    carries: PhantomData<fn() -> T>,
}

/// A subject on which `Request` is answered with `Reply`.
pub struct Endpoint<Request, Reply> {
    subject: String,
    carries: PhantomData<fn(Request) -> Reply>,
}

impl<T> Topic<T> {
    fn new(subject: String) -> Self {
        Self {
            subject,
            carries: PhantomData,
        }
    }

    /// The subject itself.
    pub fn subject(&self) -> &str {
        &self.subject
    }
}

impl<Request, Reply> Endpoint<Request, Reply> {
    fn new(subject: String) -> Self {
        Self {
            subject,
            carries: PhantomData,
        }
    }

    /// The subject itself.
    pub fn subject(&self) -> &str {
        &self.subject
    }
}

impl<T> fmt::Debug for Topic<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({})", self.subject)
    }
}

impl<Request, Reply> fmt::Debug for Endpoint<Request, Reply> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.subject)
    }
}

/// The subjects of one namespace.
#[derive(Clone, Debug)]
pub struct Subjects {
    namespace: Namespace,
}

impl Subjects {
    /// Of this namespace.
    pub fn new(namespace: Namespace) -> Self {
        Self { namespace }
    }

    /// Where a worker claims a render.
    pub fn claim(&self) -> Endpoint<ClaimRequest, ClaimReply> {
        Endpoint::new(self.at("render.claim"))
    }

    /// Where a worker that holds a claim gets one set of coefficients.
    pub fn coefficients(&self) -> Endpoint<CoefficientsRequest, CoefficientsReply> {
        Endpoint::new(self.at("render.coefficients"))
    }

    /// Where a worker renews its lease and learns of a cancel.
    pub fn renew(&self) -> Endpoint<RenewRequest, RenewReply> {
        Endpoint::new(self.at("render.renew"))
    }

    /// Where a worker says how its attempt ended.
    pub fn finish(&self) -> Endpoint<FinishRequest, FinishReply> {
        Endpoint::new(self.at("render.finish"))
    }

    /// Where a worker announces itself, again and again.
    pub fn hello(&self) -> Endpoint<Hello, HelloReply> {
        Endpoint::new(self.at("worker.hello"))
    }

    /// A running render's progress and previews.
    pub fn render_progress(&self, render: RenderId) -> Topic<Progress> {
        Topic::new(self.at(&format!("render.progress.{render}")))
    }

    /// A render's changes of state.
    pub fn render_event(&self, render: RenderId) -> Topic<RenderEvent> {
        Topic::new(self.at(&format!("render.event.{render}")))
    }

    /// Tells the worker of a render at once that it was cancelled; a renewal tells it later anyway.
    pub fn render_cancel(&self, render: RenderId) -> Topic<CancelNotice> {
        Topic::new(self.at(&format!("render.cancel.{render}")))
    }

    /// An identity's changes.
    pub fn identity_event(&self, identity: IdentityId) -> Topic<IdentityEvent> {
        Topic::new(self.at(&format!("identity.event.{identity}")))
    }

    /// Tells the dispatchers that there may be something to admit; their timer finds it later anyway.
    pub fn dispatch_wake(&self) -> Topic<Wake> {
        Topic::new(self.at("dispatch.wake"))
    }

    /// Prompts to claim a render of this pool.
    pub(crate) fn render_work(&self, pool: &PoolName) -> String {
        self.at(&format!("render.work.{pool}"))
    }

    /// Prompts of all pools.
    pub(crate) fn all_render_work(&self) -> String {
        self.at("render.work.*")
    }

    /// Prompts to claim a photo.
    pub(crate) fn photo_work(&self) -> String {
        self.at("photo.work")
    }

    /// Prompts of one kind that could not be read.
    pub(crate) fn dead(&self, kind: &str) -> String {
        self.at(&format!("dead.{kind}"))
    }

    fn at(&self, rest: &str) -> String {
        format!("{}.{rest}", self.namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change here parts the services of two versions from each other.
    #[test]
    fn subjects_stay_as_they_are() {
        let subjects = Subjects::new("ns".parse().unwrap());
        let render = RenderId(uuid::Uuid::nil());
        let identity = IdentityId(uuid::Uuid::nil());
        let nil = "00000000-0000-0000-0000-000000000000";
        let pool = "pocket-cpu".parse().unwrap();
        let found = [
            subjects.claim().subject,
            subjects.coefficients().subject,
            subjects.renew().subject,
            subjects.finish().subject,
            subjects.hello().subject,
            subjects.render_progress(render).subject,
            subjects.render_event(render).subject,
            subjects.render_cancel(render).subject,
            subjects.identity_event(identity).subject,
            subjects.dispatch_wake().subject,
            subjects.render_work(&pool),
            subjects.photo_work(),
            subjects.dead("render"),
        ];
        let expected = [
            "ns.render.claim".to_owned(),
            "ns.render.coefficients".to_owned(),
            "ns.render.renew".to_owned(),
            "ns.render.finish".to_owned(),
            "ns.worker.hello".to_owned(),
            format!("ns.render.progress.{nil}"),
            format!("ns.render.event.{nil}"),
            format!("ns.render.cancel.{nil}"),
            format!("ns.identity.event.{nil}"),
            "ns.dispatch.wake".to_owned(),
            "ns.render.work.pocket-cpu".to_owned(),
            "ns.photo.work".to_owned(),
            "ns.dead.render".to_owned(),
        ];
        assert_eq!(found, expected);
    }
}
