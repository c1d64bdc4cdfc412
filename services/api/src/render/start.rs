//! The picture that a render starts from: taken out of its request, checked, stored.

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use likeness_blob::{ObjectKey, Prefix};
use likeness_domain::{Error, FieldViolation, RenderId, TenantId};
use likeness_picture::Limits;
use likeness_registry::{PgConnection, erasures};
use likeness_wire::v1;

use crate::app::App;

/// A picture whose render has not been inserted by then never will be.
const ORPHANED_AFTER: TimeDelta = TimeDelta::hours(1);

/// A picture to start from, as it was sent.
pub struct StartPicture {
    /// The file.
    pub file: Bytes,
    /// Its media type, or why it is not taken.
    pub content_type: Result<&'static str, FieldViolation>,
}

impl StartPicture {
    /// Takes the picture out of its request, which is then small enough to be copied.
    pub fn take(app: &App, render: &mut v1::Render) -> Option<Self> {
        let init = render.init_image.as_mut()?;
        let file = std::mem::take(&mut init.image);
        let content_type = check(app.limits.photo_bytes, &file);
        Some(Self { file, content_type })
    }

    /// Why it is not taken.
    pub fn violation(&self) -> Option<FieldViolation> {
        self.content_type.clone().err()
    }
}

/// Checks all that shows without decoding a pixel.
fn check(max_bytes: usize, picture: &[u8]) -> Result<&'static str, FieldViolation> {
    let violation = |description: String| FieldViolation {
        field: "render.init_image.image".to_owned(),
        description,
    };
    if picture.is_empty() {
        return Err(violation("expected a JPEG, PNG or WebP file".to_owned()));
    }
    let limits = Limits {
        max_bytes: max_bytes as u64,
        ..Limits::default()
    };
    likeness_picture::check(picture, &limits).map_err(|refused| violation(refused.to_string()))
}

/// A picture in storage whose render is still to be inserted.
pub struct Stored {
    prefix: String,
    orphaned_at: DateTime<Utc>,
}

impl Stored {
    /// Puts the picture into storage. Its folder is on the list of what is erased first, for a time when its render has
    /// long been inserted: whatever fails in between leaves nothing behind.
    pub async fn put(
        app: &App,
        tenant: TenantId,
        render: RenderId,
        picture: &StartPicture,
    ) -> Result<Self, Error> {
        let content_type = picture.content_type.clone();
        let content_type = content_type.map_err(|wrong| Error::invalid(vec![wrong]))?;
        let stored = Self {
            prefix: Prefix::start(tenant, render).as_str().to_owned(),
            orphaned_at: app.clock.now() + ORPHANED_AFTER,
        };
        let mut tx = app.begin().await?;
        erasures::request(&mut tx, &stored.prefix, stored.orphaned_at).await?;
        app.commit(tx).await?;
        let key = ObjectKey::RenderStart { tenant, render };
        app.blob
            .put(&key, picture.file.clone(), content_type)
            .await?;
        Ok(stored)
    }

    /// Strikes the picture off that list, in the transaction that inserts its render.
    pub async fn keep(self, conn: &mut PgConnection) -> Result<(), Error> {
        erasures::done(conn, &[self.prefix], self.orphaned_at).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_by_its_bytes_and_refused_with_its_field() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x02\0\0\0\x90wS\xde\0\0\0\0IDAT";
        assert_eq!(check(100, png), Ok("image/png"));
        for (limit, file) in [
            (10, png.as_slice()),
            (100, b""),
            (100, b"no picture"),
            (100, b"GIF89a"),
        ] {
            let wrong = check(limit, file).unwrap_err();
            assert_eq!(wrong.field, "render.init_image.image");
            assert!(!wrong.description.is_empty());
        }
    }
}
