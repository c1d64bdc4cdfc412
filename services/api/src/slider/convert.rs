//! Registry rows as messages, and messages as what a slider is made from.

use likeness_domain::{
    Error, SliderId, TenantId,
    names::{IdentityName, NameError, PhotoName, SliderName},
};
use likeness_registry::sliders::{Slider, SliderEnd, SliderSource};
use likeness_wire::{time, v1};

use crate::auth;

/// A slider as sent.
pub fn slider(row: &Slider) -> v1::Slider {
    v1::Slider {
        name: row.name().to_string(),
        display_name: row.display_name.clone(),
        before: end_name(row.tenant_id, &row.before),
        after: end_name(row.tenant_id, &row.after),
        create_time: Some(time::to_proto(row.created_at)),
    }
}

/// What an end was made from, as it was named.
fn end_name(tenant: TenantId, end: &SliderEnd) -> String {
    let identity = end.identity;
    match end.photo {
        Some(photo) => PhotoName {
            tenant,
            identity,
            photo,
        }
        .to_string(),
        None => IdentityName { tenant, identity }.to_string(),
    }
}

/// What an end is to be made from, checked to be the tenant's own.
pub fn source(tenant: TenantId, field: &'static str, name: &str) -> Result<SliderSource, Error> {
    if let Ok(photo) = name.parse::<PhotoName>() {
        auth::own(tenant, photo.tenant, "photo", name)?;
        return Ok(SliderSource {
            identity: photo.identity,
            photo: Some(photo.photo),
        });
    }
    let Ok(identity) = name.parse::<IdentityName>() else {
        let expected = "expected the name of an identity or a photo, as tenants/{tenant}/identities/{identity}";
        return Err(Error::invalid_field(field, expected));
    };
    auth::own(tenant, identity.tenant, "identity", name)?;
    Ok(SliderSource {
        identity: identity.identity,
        photo: None,
    })
}

/// A slider's name.
pub fn slider_name(tenant: TenantId, slider: SliderId) -> String {
    SliderName { tenant, slider }.to_string()
}

/// A slider's name, checked to be the tenant's own.
pub fn own_slider(tenant: TenantId, field: &str, name: &str) -> Result<SliderName, Error> {
    let parsed: SliderName = name
        .parse()
        .map_err(|error: NameError| Error::invalid_field(field, error.to_string()))?;
    auth::own(tenant, parsed.tenant, "slider", name)?;
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use likeness_domain::{ErrorKind, SystemClock};

    use super::*;

    #[test]
    fn a_source_is_a_photo_or_an_identity_of_the_tenants_own() {
        let tenant = TenantId::generate(&SystemClock);
        let photo = PhotoName {
            tenant,
            identity: likeness_domain::IdentityId::generate(&SystemClock),
            photo: likeness_domain::PhotoId::generate(&SystemClock),
        };
        let identity = IdentityName {
            tenant,
            identity: photo.identity,
        };
        let field = "slider.before";
        let of_photo = source(tenant, field, &photo.to_string()).unwrap();
        assert_eq!(of_photo.photo, Some(photo.photo));
        let of_identity = source(tenant, field, &identity.to_string()).unwrap();
        assert_eq!(
            (of_identity.identity, of_identity.photo),
            (photo.identity, None)
        );
        let other = TenantId::generate(&SystemClock);
        for name in [photo.to_string(), identity.to_string()] {
            assert_eq!(
                source(other, field, &name).unwrap_err().kind,
                ErrorKind::NotFound
            );
        }
        for wrong in [
            "",
            "tenants/x",
            &format!("tenants/{tenant}/renders/{tenant}"),
        ] {
            let error = source(tenant, field, wrong).unwrap_err();
            assert_eq!(error.violations[0].field, field);
        }
    }
}
