//! The photos of an identity.

use std::{fs, path::PathBuf};

use clap::Subcommand;
use futures::stream;
use likeness_wire::{json::to_json, v1};
use v1::upload_photo_request::Part;

use super::present;
use crate::{
    args::Output,
    connect::ClientArgs,
    fail::Failure,
    output::{print, short},
};

/// As much as the api takes in one message of an upload.
const CHUNK: usize = 1 << 20;

/// What to do with photos.
#[derive(Subcommand)]
pub enum PhotosCommand {
    /// Add photos; each is enrolled, or refused, by itself.
    Add {
        #[command(flatten)]
        client: ClientArgs,
        /// `tenants/…/identities/…`
        identity: String,
        /// JPEG, PNG or WebP.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Where a photo shows several faces, take the largest.
        #[arg(long)]
        largest: bool,
    },
    /// List an identity's photos with their quality, or why they were refused.
    List {
        #[command(flatten)]
        client: ClientArgs,
        /// `tenants/…/identities/…`
        identity: String,
    },
    /// Delete a photo with its coefficients.
    Delete {
        #[command(flatten)]
        client: ClientArgs,
        /// `tenants/…/identities/…/photos/…`
        name: String,
    },
}

/// Runs a command.
pub async fn photos(command: PhotosCommand, output: Output) -> Result<(), Failure> {
    match command {
        PhotosCommand::Add {
            client,
            identity,
            files,
            largest,
        } => add(&client, &identity, &files, largest, output).await,
        PhotosCommand::List { client, identity } => list(&client, identity, output).await,
        PhotosCommand::Delete { client, name } => {
            client
                .identities()
                .await?
                .delete_photo(v1::DeletePhotoRequest { name })
                .await?;
            Ok(())
        }
    }
}

async fn add(
    client: &ClientArgs,
    identity: &str,
    files: &[PathBuf],
    largest: bool,
    output: Output,
) -> Result<(), Failure> {
    let mut client = client.identities().await?;
    let face = if largest {
        v1::FaceChoice::Largest
    } else {
        v1::FaceChoice::Only
    };
    let mut photos = Vec::with_capacity(files.len());
    for file in files {
        let bytes = fs::read(file)
            .map_err(|error| Failure::new(format!("cannot read {}: {error}", file.display())))?;
        let header = v1::UploadPhotoHeader {
            parent: identity.to_owned(),
            face: face.into(),
            request_id: String::new(),
        };
        let answer = client
            .upload_photo(stream::iter(parts(header, &bytes)))
            .await?
            .into_inner();
        photos.push(present(answer.photo)?);
    }
    show(&photos, output)
}

fn parts(header: v1::UploadPhotoHeader, bytes: &[u8]) -> Vec<v1::UploadPhotoRequest> {
    let chunks = bytes
        .chunks(CHUNK)
        .map(|chunk| Part::Chunk(chunk.to_vec().into()));
    std::iter::once(Part::Header(header))
        .chain(chunks)
        .map(|part| v1::UploadPhotoRequest { part: Some(part) })
        .collect()
}

async fn list(client: &ClientArgs, identity: String, output: Output) -> Result<(), Failure> {
    let mut client = client.identities().await?;
    let mut request = v1::ListPhotosRequest {
        parent: identity,
        ..Default::default()
    };
    let mut photos = Vec::new();
    loop {
        let page = client.list_photos(request.clone()).await?.into_inner();
        photos.extend(page.photos);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return show(&photos, output);
        }
    }
}

fn show(photos: &[v1::Photo], output: Output) -> Result<(), Failure> {
    let rows = photos.iter().map(|photo| {
        vec![
            photo.name.clone(),
            short(photo.state().as_str_name(), "PHOTO_STATE"),
            photo.size_bytes.to_string(),
            remark(photo),
        ]
    });
    let json = photos.iter().map(to_json).collect();
    print(
        output,
        &["NAME", "STATE", "BYTES", "REMARK"],
        rows.collect(),
        &json,
    )
}

fn remark(photo: &v1::Photo) -> String {
    if let Some(rejection) = &photo.rejection {
        let reason = short(rejection.reason().as_str_name(), "PHOTO_REJECTION_REASON");
        return format!("{reason}: {}", rejection.message);
    }
    photo
        .quality
        .as_ref()
        .map_or_else(String::new, measurements)
}

fn measurements(quality: &v1::QualityReport) -> String {
    let landmarks = short(quality.landmarks().as_str_name(), "LANDMARK_SOURCE");
    format!(
        "face {:.0} px, score {:.1}, sharpness {:.2}, brightness {:.2}, landmarks: {landmarks}",
        quality.face_size, quality.detector_score, quality.sharpness, quality.brightness
    )
}
