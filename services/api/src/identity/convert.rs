//! Registry rows as messages, and messages as changes.

use std::str::FromStr;

use likeness_domain::{
    Error, IdentityId, Labels, TenantId, labels,
    names::{IdentityName, NameError, PhotoName},
};
use likeness_registry::{
    identities::{Consent, Identity},
    photos::Photo,
};
use likeness_wire::{identity as wire, time, v1};

use crate::{app::App, auth};

/// An identity as sent.
pub fn identity(row: &Identity) -> v1::Identity {
    v1::Identity {
        name: identity_name(row.tenant_id, row.id).to_string(),
        external_id: row.external_id.clone().unwrap_or_default(),
        display_name: row.display_name.clone(),
        labels: row.labels.clone(),
        state: wire::identity_state(row.state()).into(),
        consent: row.consent.as_ref().map(consent),
        photo_counts: Some(wire::photo_counts(row.counts)),
        create_time: Some(time::to_proto(row.created_at)),
        update_time: Some(time::to_proto(row.updated_at)),
        etag: row.version.to_string(),
    }
}

fn consent(consent: &Consent) -> v1::Consent {
    v1::Consent {
        reference: consent.reference.clone(),
        grant_time: Some(time::to_proto(consent.granted_at)),
        revoke_time: consent.revoked_at.map(time::to_proto),
    }
}

/// A photo as sent.
pub fn photo(row: &Photo) -> v1::Photo {
    let name = PhotoName {
        tenant: row.tenant_id,
        identity: row.identity_id,
        photo: row.id,
    };
    v1::Photo {
        name: name.to_string(),
        state: wire::photo_state(row.state).into(),
        rejection: row.rejection.as_ref().map(wire::rejection),
        quality: row.quality.as_ref().map(wire::quality),
        content_type: row.content_type.clone(),
        size_bytes: row.size_bytes,
        create_time: Some(time::to_proto(row.created_at)),
        finish_time: row.finished_at.map(time::to_proto),
    }
}

/// Consent as received: given now where the request does not say when.
pub fn consent_from(app: &App, consent: &v1::Consent) -> Result<Consent, Error> {
    if consent.reference.is_empty() || consent.reference.len() > 500 {
        return Err(Error::invalid_field(
            "identity.consent.reference",
            "expected the tenant's reference to the agreement, 1 to 500 bytes",
        ));
    }
    let granted_at = match consent.grant_time {
        Some(time) => read_time("identity.consent.grant_time", time)?,
        None => app.clock.now(),
    };
    let revoked_at = match consent.revoke_time {
        Some(time) => Some(read_time("identity.consent.revoke_time", time)?),
        None => None,
    };
    Ok(Consent {
        reference: consent.reference.clone(),
        granted_at,
        revoked_at,
    })
}

fn read_time(
    field: &str,
    time: prost_types::Timestamp,
) -> Result<chrono::DateTime<chrono::Utc>, Error> {
    time::from_proto(field, time).map_err(|violation| Error::invalid(vec![violation]))
}

/// Labels as received.
pub fn labels_from(field: &str, labels: &Labels) -> Result<Labels, Error> {
    let mut violations = Vec::new();
    labels::check(field, labels, &mut violations);
    if violations.is_empty() {
        Ok(labels.clone())
    } else {
        Err(Error::invalid(violations))
    }
}

/// An external id as received; empty is none.
pub fn external_id_from(external_id: &str) -> Result<Option<String>, Error> {
    match external_id {
        "" => Ok(None),
        id if id.len() <= 200 => Ok(Some(id.to_owned())),
        _ => Err(Error::invalid_field(
            "identity.external_id",
            "expected at most 200 bytes",
        )),
    }
}

/// A display name as received.
pub fn display_name_from(name: &str) -> Result<String, Error> {
    if name.len() > 200 {
        return Err(Error::invalid_field(
            "identity.display_name",
            "expected at most 200 bytes",
        ));
    }
    Ok(name.to_owned())
}

/// An identity's name, checked to be the tenant's own.
pub fn own_identity(tenant: TenantId, field: &str, name: &str) -> Result<IdentityName, Error> {
    let parsed: IdentityName = parse_name(field, name)?;
    auth::own(tenant, parsed.tenant, "identity", name)?;
    Ok(parsed)
}

/// A photo's name, checked to be the tenant's own.
pub fn own_photo(tenant: TenantId, name: &str) -> Result<PhotoName, Error> {
    let parsed: PhotoName = parse_name("name", name)?;
    auth::own(tenant, parsed.tenant, "photo", name)?;
    Ok(parsed)
}

fn parse_name<T: FromStr<Err = NameError>>(field: &str, name: &str) -> Result<T, Error> {
    name.parse()
        .map_err(|error: NameError| Error::invalid_field(field, error.to_string()))
}

/// An etag as a version; empty is none.
pub fn version_from(etag: &str, what: &'static str) -> Result<Option<i64>, Error> {
    match etag {
        "" => Ok(None),
        etag => etag
            .parse()
            .map(Some)
            .map_err(|_| Error::etag_mismatch(what)),
    }
}

fn identity_name(tenant: TenantId, identity: IdentityId) -> IdentityName {
    IdentityName { tenant, identity }
}
