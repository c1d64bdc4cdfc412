//! Whose coefficients a render takes: who it shows, and where its sliders start and lead. Each is looked up once, and pinned to
//! the photos of now.

use std::collections::HashMap;

use likeness_domain::{Error, ErrorKind, IdentityId, PhotoId, SliderId, TenantId};
use likeness_registry::{
    PgConnection, coefficients, identities,
    renders::{RenderIdentity, RenderSlider},
    sliders::{self, Slider},
};
use likeness_wire::v1;

use crate::{consent, identity::own_identity, slider::own_slider};

/// One tenant's identities and sliders, as far as they have been looked up.
pub struct Sources {
    tenant: TenantId,
    photos: HashMap<(IdentityId, String), Vec<PhotoId>>,
    sliders: HashMap<(SliderId, String), Slider>,
}

impl Sources {
    /// Without any memory yet.
    pub fn new(tenant: TenantId) -> Self {
        Self {
            tenant,
            photos: HashMap::new(),
            sliders: HashMap::new(),
        }
    }

    /// Identities with consent, pinned to the photos that make their coefficients now.
    pub async fn identities(
        &mut self,
        conn: &mut PgConnection,
        named: &[v1::WeightedIdentity],
        weights: &[f32],
        encoder: &str,
    ) -> Result<Vec<RenderIdentity>, Error> {
        let mut pinned = Vec::with_capacity(weights.len());
        for (part, weight) in named.iter().zip(weights) {
            let name = own_identity(self.tenant, "render.identities", &part.identity)?;
            pinned.push(RenderIdentity {
                identity_id: name.identity,
                weight: *weight,
                photo_ids: self.photos(conn, name.identity, encoder).await?,
            });
        }
        Ok(pinned)
    }

    async fn photos(
        &mut self,
        conn: &mut PgConnection,
        identity: IdentityId,
        encoder: &str,
    ) -> Result<Vec<PhotoId>, Error> {
        let key = (identity, encoder.to_owned());
        if let Some(known) = self.photos.get(&key) {
            return Ok(known.clone());
        }
        let row = identities::get(conn, self.tenant, identity).await?;
        consent::check(&row)?;
        let found = coefficients::ready_photos(conn, identity, encoder).await?;
        if found.is_empty() {
            let message = "the identity has no accepted photo for this bundle; add photos and wait until it is READY";
            return Err(refusal("IDENTITY_NOT_READY", message));
        }
        self.photos.insert(key, found.clone());
        Ok(found)
    }

    /// Checks that the photos of all that are shown have base coefficients too.
    pub async fn check_base(
        &self,
        conn: &mut PgConnection,
        shown: &[RenderIdentity],
        encoder: &str,
    ) -> Result<(), Error> {
        for part in shown {
            if !coefficients::have_base(conn, &part.photo_ids, encoder).await? {
                let message = "a photo of the identity was enrolled without base coefficients; delete it and add it anew";
                return Err(refusal("BASE_NOT_ENROLLED", message));
            }
        }
        Ok(())
    }

    /// Sliders between people with consent, pinned to the photos that they were made from.
    pub async fn sliders(
        &mut self,
        conn: &mut PgConnection,
        named: &[v1::ScaledSlider],
        encoder: &str,
    ) -> Result<Vec<RenderSlider>, Error> {
        let mut pinned = Vec::with_capacity(named.len());
        for (place, scaled) in named.iter().enumerate() {
            let field = format!("render.sliders[{place}].slider");
            let name = own_slider(self.tenant, &field, &scaled.slider)?;
            let slider = self.slider(conn, name.slider, encoder).await?;
            pinned.push(RenderSlider {
                slider_id: slider.id,
                scale: scaled.scale,
                before_identity: slider.before.identity,
                before_photos: slider.before.photos,
                after_identity: slider.after.identity,
                after_photos: slider.after.photos,
            });
        }
        Ok(pinned)
    }

    async fn slider(
        &mut self,
        conn: &mut PgConnection,
        id: SliderId,
        encoder: &str,
    ) -> Result<Slider, Error> {
        let key = (id, encoder.to_owned());
        if let Some(known) = self.sliders.get(&key) {
            return Ok(known.clone());
        }
        let found = sliders::get(conn, self.tenant, id).await?;
        for end in [&found.before, &found.after] {
            let row = identities::get(conn, self.tenant, end.identity).await?;
            consent::check(&row)?;
            if !coefficients::have_all(conn, &end.photos, encoder).await? {
                let message = "the slider's photos have no coefficients for this model's bundle; create the slider anew";
                return Err(refusal("SLIDER_OF_OTHER_ENCODER", message));
            }
        }
        self.sliders.insert(key, found.clone());
        Ok(found)
    }
}

fn refusal(reason: &'static str, message: &str) -> Error {
    Error::new(ErrorKind::FailedPrecondition, reason, message)
}
