//! Every object that is stored: where it lies, what it is and how long it may be cached.

use std::fmt;

use likeness_domain::{IdentityId, PhotoId, RenderId, TenantId, render::ImageFormat};

use crate::prefix::Prefix;

/// An object. Its path is made of ids and numbers alone, so that it says nothing of a person and cannot leave
/// its tenant's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectKey {
    /// A photo as it was uploaded.
    PhotoOriginal {
        /// Whose.
        tenant: TenantId,
        /// Of whom.
        identity: IdentityId,
        /// Which.
        photo: PhotoId,
    },
    /// The picture that a render starts from, as it was sent.
    RenderStart {
        /// Whose.
        tenant: TenantId,
        /// Of which render.
        render: RenderId,
    },
    /// One image of one attempt at a render.
    RenderImage {
        /// Whose.
        tenant: TenantId,
        /// Of which render.
        render: RenderId,
        /// By which attempt: a stale one cannot replace the winner's.
        attempt: u32,
        /// Which of the render's images, from 0.
        position: u32,
        /// The file's format.
        format: ImageFormat,
    },
}

impl ObjectKey {
    /// Where the object lies in the bucket.
    pub fn path(&self) -> String {
        match self {
            Self::PhotoOriginal { .. } => format!("{}original", self.folder()),
            Self::RenderStart { .. } => format!("{}picture", self.folder()),
            Self::RenderImage {
                position, format, ..
            } => {
                format!("{}{position}.{}", self.folder(), format.extension())
            }
        }
    }

    /// What is deleted together with the object: all of its photo, of its render's start, or of its attempt.
    pub fn folder(&self) -> Prefix {
        match *self {
            Self::PhotoOriginal {
                tenant,
                identity,
                photo,
            } => Prefix::photo(tenant, identity, photo),
            Self::RenderStart { tenant, render } => Prefix::start(tenant, render),
            Self::RenderImage {
                tenant,
                render,
                attempt,
                ..
            } => Prefix::attempt(tenant, render, attempt),
        }
    }

    /// Its media type, where the kind of object decides it; an uploaded file's comes with the file.
    pub fn content_type(&self) -> Option<&'static str> {
        match self {
            Self::PhotoOriginal { .. } | Self::RenderStart { .. } => None,
            Self::RenderImage { format, .. } => Some(format.content_type()),
        }
    }

    /// What `Cache-Control` says of it.
    pub fn cache_policy(&self) -> &'static str {
        match self {
            Self::PhotoOriginal { .. } | Self::RenderStart { .. } => "private, no-store",
            Self::RenderImage { .. } => "private, max-age=86400, immutable",
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const NIL: &str = "00000000-0000-0000-0000-000000000000";

    /// Objects and erasures that are stored already lie at these paths.
    #[test]
    fn paths_stay_as_they_are() {
        let photo = ObjectKey::PhotoOriginal {
            tenant: Uuid::nil().into(),
            identity: Uuid::nil().into(),
            photo: Uuid::nil().into(),
        };
        let path = format!("tenants/{NIL}/identities/{NIL}/photos/{NIL}/original");
        assert_eq!(photo.path(), path);
        let start = ObjectKey::RenderStart {
            tenant: Uuid::nil().into(),
            render: Uuid::nil().into(),
        };
        let path = format!("tenants/{NIL}/renders/{NIL}/start/picture");
        assert_eq!(start.path(), path);
        let image = ObjectKey::RenderImage {
            tenant: Uuid::nil().into(),
            render: Uuid::nil().into(),
            attempt: 3,
            position: 1,
            format: ImageFormat::Jpeg,
        };
        assert_eq!(image.path(), format!("tenants/{NIL}/renders/{NIL}/3/1.jpg"));
        assert_eq!(image.content_type(), Some("image/jpeg"));
    }

    #[test]
    fn an_object_lies_in_its_folder_and_no_other_attempt_s() {
        let image = |attempt| ObjectKey::RenderImage {
            tenant: Uuid::nil().into(),
            render: Uuid::nil().into(),
            attempt,
            position: 0,
            format: ImageFormat::Png,
        };
        assert!(image(1).path().starts_with(image(1).folder().as_str()));
        assert!(!image(10).path().starts_with(image(1).folder().as_str()));
    }
}
