//! Handlers of sliders.

use likeness_domain::{
    Error, ErrorKind, PhotoState, SliderId, TenantId, names::PhotoName, page::Page,
};
use likeness_registry::{
    PgConnection, acquire, coefficients, identities, photos,
    sliders::{self, NewSlider, Slider, SliderEnd, SliderSource},
};
use likeness_wire::v1;
use prost::Message as _;

use super::convert;
use crate::{app::App, auth, consent, replay};

const MAX_DISPLAY_NAME: usize = 200;

/// Creates a slider, or returns the one that the same request made before.
pub async fn create(
    app: &App,
    tenant: TenantId,
    request: v1::CreateSliderRequest,
) -> Result<v1::CreateSliderResponse, Error> {
    auth::check_parent(tenant, &request.parent)?;
    let wanted = request.slider.unwrap_or_default();
    let (before, after) = ends(tenant, &wanted)?;
    let payload = wanted.encode_to_vec();
    let replay = replay::Request::new(
        Some(tenant),
        "CreateSlider",
        request.request_id,
        &[&payload],
    )?;
    let mut tx = app.begin().await?;
    let row = match replay.begin(&mut tx, app).await? {
        Some(ids) => first(&mut tx, tenant, &ids).await?,
        None => {
            let new = new_slider(app, &mut tx, tenant, wanted.display_name, before, after).await?;
            let row = sliders::create(&mut tx, &new, app.clock.now()).await?;
            replay.record(&mut tx, &[row.id.0]).await?;
            row
        }
    };
    app.commit(tx).await?;
    Ok(v1::CreateSliderResponse {
        slider: Some(convert::slider(&row)),
    })
}

async fn first(
    conn: &mut PgConnection,
    tenant: TenantId,
    ids: &[uuid::Uuid],
) -> Result<Slider, Error> {
    let id = ids
        .first()
        .copied()
        .ok_or_else(|| Error::internal("a request id without slider"))?;
    sliders::get(conn, tenant, id.into()).await
}

/// What the request says of the slider, checked without the database.
fn ends(tenant: TenantId, wanted: &v1::Slider) -> Result<(SliderSource, SliderSource), Error> {
    if wanted.display_name.len() > MAX_DISPLAY_NAME {
        let expected = format!("expected at most {MAX_DISPLAY_NAME} bytes");
        return Err(Error::invalid_field("slider.display_name", expected));
    }
    let before = convert::source(tenant, "slider.before", &wanted.before)?;
    let after = convert::source(tenant, "slider.after", &wanted.after)?;
    if before == after {
        let expected =
            "expected another identity or photo than before: a slider leads from one to the other";
        return Err(Error::invalid_field("slider.after", expected));
    }
    Ok((before, after))
}

/// The slider to be stored, pinned to the photos that its sources have now.
async fn new_slider(
    app: &App,
    conn: &mut PgConnection,
    tenant: TenantId,
    display_name: String,
    before: SliderSource,
    after: SliderSource,
) -> Result<NewSlider, Error> {
    check_source(conn, tenant, before).await?;
    check_source(conn, tenant, after).await?;
    let encoder = sliders::common_encoder(conn, tenant, before, after).await?;
    let encoder = encoder.ok_or_else(|| {
        let message =
            "the two sources have no coefficients of one encoder in common; add their photos anew";
        Error::new(ErrorKind::FailedPrecondition, "ENCODERS_DIFFER", message)
    })?;
    Ok(NewSlider {
        id: SliderId::generate(app.clock.as_ref()),
        tenant_id: tenant,
        display_name,
        before: pin(conn, before, &encoder).await?,
        after: pin(conn, after, &encoder).await?,
    })
}

/// Checks that a source has consent and an accepted photo.
async fn check_source(
    conn: &mut PgConnection,
    tenant: TenantId,
    source: SliderSource,
) -> Result<(), Error> {
    let identity = identities::get(conn, tenant, source.identity).await?;
    consent::check(&identity)?;
    let refuse = |reason, message| Err(Error::new(ErrorKind::FailedPrecondition, reason, message));
    let Some(photo) = source.photo else {
        return match identity.counts.accepted {
            0 => refuse(
                "IDENTITY_NOT_READY",
                "the identity has no accepted photo; add photos and wait until it is READY",
            ),
            _ => Ok(()),
        };
    };
    let name = PhotoName {
        tenant,
        identity: source.identity,
        photo,
    };
    match photos::get(conn, &name).await?.state {
        PhotoState::Accepted => Ok(()),
        _ => refuse(
            "PHOTO_NOT_ACCEPTED",
            "the photo is not ACCEPTED; wait until it is, or take another one",
        ),
    }
}

async fn pin(
    conn: &mut PgConnection,
    source: SliderSource,
    encoder: &str,
) -> Result<SliderEnd, Error> {
    let mut photos = coefficients::ready_photos(conn, source.identity, encoder).await?;
    photos.retain(|photo| source.photo.is_none_or(|named| named == *photo));
    Ok(SliderEnd {
        identity: source.identity,
        photo: source.photo,
        photos,
    })
}

/// Returns one slider.
pub async fn get(
    app: &App,
    tenant: TenantId,
    request: &v1::GetSliderRequest,
) -> Result<v1::GetSliderResponse, Error> {
    let name = convert::own_slider(tenant, "name", &request.name)?;
    let mut conn = acquire(&app.pool).await?;
    let row = sliders::get(&mut conn, tenant, name.slider).await?;
    Ok(v1::GetSliderResponse {
        slider: Some(convert::slider(&row)),
    })
}

/// Lists a page of sliders.
pub async fn list(
    app: &App,
    tenant: TenantId,
    request: &v1::ListSlidersRequest,
) -> Result<v1::ListSlidersResponse, Error> {
    auth::check_parent(tenant, &request.parent)?;
    let page = Page::from_request(request.page_size, &request.page_token)?;
    let mut conn = acquire(&app.pool).await?;
    let rows = sliders::list(&mut conn, tenant, &page).await?;
    Ok(v1::ListSlidersResponse {
        sliders: rows.iter().map(convert::slider).collect(),
        next_page_token: page.next_token(&rows, |row| row.id.0),
    })
}

/// Deletes a slider; renders that were taken in with it keep what they are pinned to.
pub async fn delete(
    app: &App,
    tenant: TenantId,
    request: &v1::DeleteSliderRequest,
) -> Result<v1::DeleteSliderResponse, Error> {
    let name = convert::own_slider(tenant, "name", &request.name)?;
    let mut conn = acquire(&app.pool).await?;
    sliders::delete(&mut conn, tenant, name.slider).await?;
    Ok(v1::DeleteSliderResponse {})
}
