//! Object storage: which objects there are, and the client that keeps them. No other crate sees the S3 client.

mod download;
mod error;
mod key;
mod prefix;
mod settings;
mod storage;
mod upload;

pub use download::{DownloadError, Downloader};
pub use error::BlobError;
pub use key::ObjectKey;
pub use prefix::{Prefix, PrefixError};
pub use settings::BlobArgs;
pub use storage::{Blob, PresignedUrl};
pub use upload::{UploadError, Uploader};
