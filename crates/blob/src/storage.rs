//! The client: put, get, delete, and links for those who hold no keys.

use std::{fmt, time::Duration};

use aws_sdk_s3::{
    Client,
    error::SdkError,
    operation::get_object::GetObjectOutput,
    presigning::{PresignedRequest, PresigningConfig},
    primitives::ByteStream,
    types::{
        BucketLocationConstraint, CreateBucketConfiguration, Delete, Object, ObjectIdentifier,
    },
};
use bytes::{Bytes, BytesMut};

use crate::{
    error::{BlobError, status},
    key::ObjectKey,
    prefix::Prefix,
    settings::BlobArgs,
};

/// The longest that storages let a link live.
const MAX_LIFETIME: Duration = Duration::from_hours(7 * 24);

/// Objects listed and deleted by one request: few enough that each is quick.
const PAGE: i32 = 100;

/// A link that whoever holds it may use until it ends: a credential, so `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct PresignedUrl(String);

impl PresignedUrl {
    /// The link.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<PresignedUrl> for String {
    fn from(url: PresignedUrl) -> Self {
        url.0
    }
}

impl fmt::Debug for PresignedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresignedUrl(…)")
    }
}

/// The project's bucket; clones share the connections.
#[derive(Clone)]
pub struct Blob {
    client: Client,
    signer: Client,
    bucket: String,
    region: String,
}

impl Blob {
    /// A client of the storage; nothing is sent yet.
    ///
    /// # Errors
    /// An endpoint that is no URL.
    pub fn connect(args: &BlobArgs) -> Result<Self, BlobError> {
        Ok(Self {
            client: args.client()?,
            signer: args.signer()?,
            bucket: args.s3_bucket.clone(),
            region: args.s3_region.clone(),
        })
    }

    /// Stores an object, over what was there.
    ///
    /// # Errors
    /// When storage is away or refuses.
    pub async fn put(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
        content_type: &str,
    ) -> Result<(), BlobError> {
        self.client
            .put_object()
            .bucket(&self.bucket)
            .key(key.path())
            .content_type(content_type)
            .cache_control(key.cache_policy())
            .body(ByteStream::from(bytes))
            .send()
            .await
            .map_err(|error| BlobError::request("store an object", error))?;
        Ok(())
    }

    /// Reads an object of at most `max_bytes`.
    ///
    /// # Errors
    /// [`BlobError::NotFound`]; [`BlobError::TooLarge`], before the rest is read; or storage is away or refuses.
    pub async fn get(&self, key: &ObjectKey, max_bytes: usize) -> Result<Bytes, BlobError> {
        let request = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(key.path());
        let object = request.send().await.map_err(|error| {
            let missing = matches!(&error, SdkError::ServiceError(e) if e.err().is_no_such_key());
            if missing || status(&error) == Some(404) {
                BlobError::NotFound { key: *key }
            } else {
                BlobError::request("read an object", error)
            }
        })?;
        collect(key, object, max_bytes).await
    }

    /// Deletes all objects of a prefix and says how many there were. Repeating it is harmless.
    ///
    /// # Errors
    /// When storage is away or refuses; some objects may be gone then.
    pub async fn delete_prefix(&self, prefix: &Prefix) -> Result<usize, BlobError> {
        let list = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(prefix.as_str())
            .max_keys(PAGE);
        let mut pages = list.into_paginator().send();
        let mut deleted = 0;
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| BlobError::request("list objects", error))?;
            let objects = page.contents.unwrap_or_default();
            deleted += objects.len();
            self.delete(objects).await?;
        }
        Ok(deleted)
    }

    async fn delete(&self, objects: Vec<Object>) -> Result<(), BlobError> {
        let keys = objects.into_iter().filter_map(|object| object.key);
        let keys: Result<Vec<_>, _> = keys
            .map(|key| ObjectIdentifier::builder().key(key).build())
            .collect();
        let keys = keys.map_err(|error| BlobError::away("delete objects", error))?;
        if keys.is_empty() {
            return Ok(());
        }
        let delete = Delete::builder()
            .set_objects(Some(keys))
            .quiet(true)
            .build();
        let delete = delete.map_err(|error| BlobError::away("delete objects", error))?;
        let request = self
            .client
            .delete_objects()
            .bucket(&self.bucket)
            .delete(delete);
        let result = request
            .send()
            .await
            .map_err(|error| BlobError::request("delete objects", error))?;
        match result.errors().first() {
            None => Ok(()),
            Some(error) => Err(BlobError::Refused {
                action: "delete an object",
                code: error.code().unwrap_or("unknown").to_owned(),
            }),
        }
    }

    /// A link to read an object, for `ttl`.
    ///
    /// # Errors
    /// A `ttl` of less than a second or more than seven days.
    pub async fn presign_get(
        &self,
        key: &ObjectKey,
        ttl: Duration,
    ) -> Result<PresignedUrl, BlobError> {
        let request = self
            .signer
            .get_object()
            .bucket(&self.bucket)
            .key(key.path())
            .response_cache_control(key.cache_policy())
            .presigned(lifetime(ttl)?)
            .await;
        link(request.map_err(|error| BlobError::request("sign a link", error)))
    }

    /// A link to store an object by one PUT with exactly this content type, for `ttl`.
    ///
    /// # Errors
    /// A `ttl` of less than a second or more than seven days.
    pub async fn presign_put(
        &self,
        key: &ObjectKey,
        ttl: Duration,
        content_type: &str,
    ) -> Result<PresignedUrl, BlobError> {
        let request = self
            .signer
            .put_object()
            .bucket(&self.bucket)
            .key(key.path())
            .content_type(content_type)
            .presigned(lifetime(ttl)?)
            .await;
        link(request.map_err(|error| BlobError::request("sign a link", error)))
    }

    /// Makes the bucket if it is not there: for `likeness dev` and tests. Elsewhere an operator makes it.
    ///
    /// # Errors
    /// When storage is away or refuses.
    pub async fn ensure_bucket(&self) -> Result<(), BlobError> {
        if self.check().await.is_ok() {
            return Ok(());
        }
        let request = self.client.create_bucket().bucket(&self.bucket);
        let made = request
            .set_create_bucket_configuration(self.location())
            .send()
            .await;
        match made {
            Ok(_) => Ok(()),
            // Another process may have made it meanwhile.
            Err(error) if status(&error) == Some(409) => self.check().await,
            Err(error) => Err(BlobError::request("make the bucket", error)),
        }
    }

    fn location(&self) -> Option<CreateBucketConfiguration> {
        if self.region == "us-east-1" {
            return None;
        }
        let region = BucketLocationConstraint::from(self.region.as_str());
        Some(
            CreateBucketConfiguration::builder()
                .location_constraint(region)
                .build(),
        )
    }

    /// Whether the bucket is there and may be used.
    ///
    /// # Errors
    /// When it is not, or storage is away.
    pub async fn check(&self) -> Result<(), BlobError> {
        let request = self.client.head_bucket().bucket(&self.bucket);
        request
            .send()
            .await
            .map_err(|error| BlobError::request("find the bucket", error))?;
        Ok(())
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob")
            .field("bucket", &self.bucket)
            .finish_non_exhaustive()
    }
}

async fn collect(
    key: &ObjectKey,
    object: GetObjectOutput,
    max_bytes: usize,
) -> Result<Bytes, BlobError> {
    let too_large = || BlobError::TooLarge {
        key: *key,
        limit: max_bytes,
    };
    let announced = object
        .content_length
        .and_then(|length| usize::try_from(length).ok());
    if announced.is_some_and(|length| length > max_bytes) {
        return Err(too_large());
    }
    let mut body = object.body;
    let mut bytes = BytesMut::with_capacity(announced.unwrap_or(0));
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| BlobError::away("read an object", error))?;
        if bytes.len() + chunk.len() > max_bytes {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

fn lifetime(ttl: Duration) -> Result<PresigningConfig, BlobError> {
    if !(Duration::from_secs(1)..=MAX_LIFETIME).contains(&ttl) {
        return Err(BlobError::Lifetime { ttl });
    }
    PresigningConfig::expires_in(ttl).map_err(|_| BlobError::Lifetime { ttl })
}

fn link(request: Result<PresignedRequest, BlobError>) -> Result<PresignedUrl, BlobError> {
    Ok(PresignedUrl(request?.uri().to_owned()))
}
