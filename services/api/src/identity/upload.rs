//! One photo in chunks.

use bytes::{Bytes, BytesMut};
use likeness_domain::{Error, TenantId};
use likeness_wire::{identity as wire, v1};
use tonic::{Status, Streaming};
use v1::upload_photo_request::Part;

use super::{convert, photos};
use crate::{app::App, reply::refuse};

const MAX_CHUNK: usize = 1 << 20;

/// Reads the header and the chunks. It stops reading at one byte over the limit: such a photo is refused anyway.
pub async fn receive(
    app: &App,
    mut stream: Streaming<v1::UploadPhotoRequest>,
) -> Result<(v1::UploadPhotoHeader, Bytes), Status> {
    let Some(v1::UploadPhotoRequest {
        part: Some(Part::Header(header)),
    }) = stream.message().await?
    else {
        return Err(refuse(Error::invalid_field(
            "part",
            "expected the header first",
        )));
    };
    let mut bytes = BytesMut::new();
    while let Some(message) = stream.message().await? {
        bytes.extend_from_slice(&chunk(message).map_err(refuse)?);
        if bytes.len() > app.limits.photo_bytes {
            break;
        }
    }
    Ok((header, bytes.freeze()))
}

fn chunk(message: v1::UploadPhotoRequest) -> Result<Bytes, Error> {
    match message.part {
        Some(Part::Chunk(chunk)) if chunk.len() <= MAX_CHUNK => Ok(chunk),
        Some(Part::Chunk(chunk)) => Err(Error::invalid_field(
            "chunk",
            format!("expected at most {MAX_CHUNK} bytes, found {}", chunk.len()),
        )),
        _ => Err(Error::invalid_field(
            "part",
            "expected a chunk after the header",
        )),
    }
}

/// Takes the photo in.
pub async fn add(
    app: &App,
    tenant: TenantId,
    header: v1::UploadPhotoHeader,
    bytes: Bytes,
) -> Result<v1::UploadPhotoResponse, Error> {
    let identity = convert::own_identity(tenant, "header.parent", &header.parent)?;
    let face = wire::face_choice(header.face)?;
    let rows = photos::take_in(
        app,
        identity,
        "UploadPhoto",
        &header.request_id,
        face,
        vec![bytes],
    )
    .await?;
    Ok(v1::UploadPhotoResponse {
        photo: rows.first().map(convert::photo),
    })
}
