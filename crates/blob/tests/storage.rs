//! The client against a real S3 server.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of a test fails the test"
)]

use std::time::Duration;

use bytes::Bytes;
use likeness_blob::{
    Blob, BlobArgs, BlobError, DownloadError, Downloader, ObjectKey, Prefix, UploadError, Uploader,
};
use likeness_domain::render::ImageFormat;
use likeness_test_support::{S3Access, TestContext};
use reqwest::StatusCode;
use uuid::Uuid;

const HOUR: Duration = Duration::from_hours(1);

fn args(context: &TestContext) -> BlobArgs {
    let s3 = context.s3();
    BlobArgs {
        s3_endpoint: Some(s3.endpoint.clone()),
        s3_region: S3Access::REGION.to_owned(),
        s3_bucket: bucket(context),
        s3_access_key: s3.access_key.clone(),
        s3_secret_key: s3.secret_key.clone(),
        s3_path_style: true,
        s3_public_endpoint: None,
    }
}

/// The test server keeps what it knows of an object in a file whose name holds bucket and key in base64: with a
/// photo's key, 23 letters are left for the bucket.
fn bucket(context: &TestContext) -> String {
    context.bucket().chars().take(22).collect()
}

async fn fixture() -> (TestContext, Blob) {
    let context = Box::pin(TestContext::new()).await.unwrap();
    let blob = Blob::connect(&args(&context)).unwrap();
    blob.ensure_bucket().await.unwrap();
    (context, blob)
}

fn photo(tenant: u128, identity: u128, photo: u128) -> ObjectKey {
    ObjectKey::PhotoOriginal {
        tenant: Uuid::from_u128(tenant).into(),
        identity: Uuid::from_u128(identity).into(),
        photo: Uuid::from_u128(photo).into(),
    }
}

fn image(tenant: u128, attempt: u32, position: u32) -> ObjectKey {
    ObjectKey::RenderImage {
        tenant: Uuid::from_u128(tenant).into(),
        render: Uuid::from_u128(9).into(),
        attempt,
        position,
        format: ImageFormat::Png,
    }
}

async fn put(blob: &Blob, key: ObjectKey, text: &'static str) {
    blob.put(&key, Bytes::from_static(text.as_bytes()), "image/png")
        .await
        .unwrap();
}

async fn is_there(blob: &Blob, key: ObjectKey) -> bool {
    match blob.get(&key, 100).await {
        Ok(_) => true,
        Err(BlobError::NotFound { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn an_object_comes_back_as_it_went() {
    let (_context, blob) = fixture().await;
    let bytes: Bytes = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
    blob.put(&photo(1, 1, 1), bytes.clone(), "image/jpeg")
        .await
        .unwrap();
    assert_eq!(blob.get(&photo(1, 1, 1), 300_000).await.unwrap(), bytes);
    put(&blob, photo(1, 1, 1), "replaced").await;
    assert_eq!(blob.get(&photo(1, 1, 1), 8).await.unwrap(), "replaced");
    put(&blob, photo(1, 1, 2), "").await;
    assert!(blob.get(&photo(1, 1, 2), 0).await.unwrap().is_empty());
}

#[tokio::test]
async fn too_large_and_missing_are_told_apart() {
    let (_context, blob) = fixture().await;
    put(&blob, photo(1, 1, 1), "123456789").await;
    let error = blob.get(&photo(1, 1, 1), 8).await.unwrap_err();
    assert!(
        matches!(error, BlobError::TooLarge { limit: 8, .. }),
        "{error}"
    );
    let error = blob.get(&photo(1, 1, 2), 8).await.unwrap_err();
    assert!(matches!(error, BlobError::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn deleting_a_prefix_touches_nothing_beside_it() {
    let (_context, blob) = fixture().await;
    let gone = [image(1, 1, 0), image(1, 1, 1)];
    let kept = [image(1, 10, 0), image(2, 1, 0), photo(1, 1, 1)];
    for key in gone.into_iter().chain(kept) {
        put(&blob, key, "x").await;
    }
    assert_eq!(
        blob.delete_prefix(&image(1, 1, 0).folder()).await.unwrap(),
        2
    );
    for key in gone {
        assert!(!is_there(&blob, key).await, "{key}");
    }
    for key in kept {
        assert!(is_there(&blob, key).await, "{key}");
    }
    assert_eq!(
        blob.delete_prefix(&image(1, 1, 0).folder()).await.unwrap(),
        0
    );
    let tenant = Prefix::tenant(Uuid::from_u128(1).into());
    assert_eq!(blob.delete_prefix(&tenant).await.unwrap(), 2);
    assert!(is_there(&blob, image(2, 1, 0)).await);
}

#[tokio::test]
async fn more_objects_than_a_page_are_all_deleted() {
    let (context, blob) = fixture().await;
    // More than one list holds.
    let client = context.s3().client();
    let prefix = Prefix::identity(Uuid::from_u128(1).into(), Uuid::from_u128(1).into());
    let puts = (0..150).map(|number| {
        let key = format!("{prefix}photos/{}/original", Uuid::from_u128(number));
        client.put_object().bucket(bucket(&context)).key(key).send()
    });
    for put in futures_of(puts).await {
        put.unwrap();
    }
    assert_eq!(blob.delete_prefix(&prefix).await.unwrap(), 150);
    assert_eq!(blob.delete_prefix(&prefix).await.unwrap(), 0);
}

async fn futures_of<F: Future + Send + 'static>(futures: impl Iterator<Item = F>) -> Vec<F::Output>
where
    F::Output: Send,
{
    futures
        .collect::<tokio::task::JoinSet<F::Output>>()
        .join_all()
        .await
}

#[tokio::test]
async fn a_link_reads_one_object_and_no_other() {
    let (_context, blob) = fixture().await;
    put(&blob, image(1, 1, 0), "one").await;
    put(&blob, image(1, 1, 1), "other").await;
    let link = blob.presign_get(&image(1, 1, 0), HOUR).await.unwrap();
    let response = reqwest::get(link.as_str()).await.unwrap();
    assert_eq!(response.headers()["content-type"], "image/png");
    assert_eq!(response.text().await.unwrap(), "one");

    let bent = [
        link.as_str().replace("/0.png", "/1.png"),
        link.as_str()
            .replace("X-Amz-Expires=3600", "X-Amz-Expires=36000"),
        with_another_last_digit(link.as_str()),
        link.as_str().split('?').next().unwrap().to_owned(),
    ];
    for url in bent {
        assert_ne!(url, link.as_str());
        assert_eq!(
            reqwest::get(&url).await.unwrap().status(),
            StatusCode::FORBIDDEN,
            "{url}"
        );
    }
    let put = reqwest::Client::new()
        .put(link.as_str())
        .body("x")
        .send()
        .await
        .unwrap();
    assert_eq!(put.status(), StatusCode::FORBIDDEN);
    assert!(!format!("{link:?}").contains("http"));
}

/// The last digit is the signature's.
fn with_another_last_digit(link: &str) -> String {
    let (rest, last) = link.split_at(link.len() - 1);
    format!("{rest}{}", if last == "0" { "1" } else { "0" })
}

#[tokio::test]
async fn a_link_ends() {
    let (_context, blob) = fixture().await;
    put(&blob, image(1, 1, 0), "one").await;
    let link = blob
        .presign_get(&image(1, 1, 0), Duration::from_secs(1))
        .await
        .unwrap();
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    // The server's own clock ends it.
    while reqwest::get(link.as_str()).await.unwrap().status() != StatusCode::FORBIDDEN {
        assert!(tokio::time::Instant::now() < end, "the link never ended");
    }
    for ttl in [Duration::ZERO, Duration::from_millis(999), HOUR * 24 * 8] {
        let error = blob.presign_get(&image(1, 1, 0), ttl).await.unwrap_err();
        assert!(matches!(error, BlobError::Lifetime { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_worker_uploads_by_link_alone() {
    let (_context, blob) = fixture().await;
    let key = image(1, 1, 0);
    let uploader = Uploader::new().unwrap();
    let link = blob.presign_put(&key, HOUR, "image/png").await.unwrap();
    // Again after a lost answer: the same link does.
    for _ in 0..2 {
        uploader
            .put(link.as_str(), "image/png", Bytes::from_static(b"png"))
            .await
            .unwrap();
    }
    assert_eq!(blob.get(&key, 10).await.unwrap(), "png");

    let bytes = Bytes::from_static(b"other");
    let bent = link.as_str().replace("/0.png", "/1.png");
    for (url, content_type) in [(bent.as_str(), "image/png"), (link.as_str(), "text/html")] {
        let error = uploader
            .put(url, content_type, bytes.clone())
            .await
            .unwrap_err();
        assert!(
            matches!(error, UploadError::Refused { status: 403 }),
            "{error}"
        );
    }
    assert_eq!(blob.get(&key, 10).await.unwrap(), "png");
}

#[tokio::test]
async fn a_worker_downloads_by_link_alone() {
    let (_context, blob) = fixture().await;
    let key = ObjectKey::RenderStart {
        tenant: Uuid::from_u128(1).into(),
        render: Uuid::from_u128(9).into(),
    };
    put(&blob, key, "picture").await;
    let downloader = Downloader::new().unwrap();
    let link = blob.presign_get(&key, HOUR).await.unwrap();
    assert_eq!(downloader.get(link.as_str(), 7).await.unwrap(), "picture");
    let error = downloader.get(link.as_str(), 6).await.unwrap_err();
    assert!(
        matches!(error, DownloadError::TooLarge { limit: 6 }),
        "{error}"
    );
    let bent = with_another_last_digit(link.as_str());
    let error = downloader.get(&bent, 7).await.unwrap_err();
    assert!(
        matches!(error, DownloadError::Refused { status: 403 }) && error.is_retryable(),
        "{error}"
    );
    blob.delete_prefix(&key.folder()).await.unwrap();
    let error = downloader.get(link.as_str(), 7).await.unwrap_err();
    assert!(
        matches!(error, DownloadError::Gone) && !error.is_retryable(),
        "{error}"
    );
    let error = downloader.get("no link", 7).await.unwrap_err();
    assert!(matches!(error, DownloadError::Link), "{error}");
}

#[tokio::test]
async fn links_name_the_public_host() {
    let (context, _) = fixture().await;
    let public = "https://photos.example.com/s3".to_owned();
    let blob = Blob::connect(&BlobArgs {
        s3_public_endpoint: Some(public),
        ..args(&context)
    })
    .unwrap();
    let get = blob.presign_get(&image(1, 1, 0), HOUR).await.unwrap();
    let put = blob
        .presign_put(&image(1, 1, 0), HOUR, "image/png")
        .await
        .unwrap();
    for link in [get, put] {
        let start = format!(
            "https://photos.example.com/s3/{}/tenants/",
            bucket(&context)
        );
        assert!(link.as_str().starts_with(&start), "{}", link.as_str());
    }
    // While its own requests go to the endpoint.
    blob.check().await.unwrap();
}

#[tokio::test]
async fn a_bucket_is_made_once() {
    let (context, blob) = fixture().await;
    blob.ensure_bucket().await.unwrap();
    let name = format!("{}-b", &bucket(&context)[..20]);
    let other = Blob::connect(&BlobArgs {
        s3_bucket: name.clone(),
        ..args(&context)
    })
    .unwrap();
    let error = other.check().await.unwrap_err();
    assert!(matches!(error, BlobError::Refused { .. }), "{error}");
    let (one, two) = tokio::join!(other.ensure_bucket(), other.ensure_bucket());
    one.and(two).unwrap();
    other.check().await.unwrap();
    context
        .s3()
        .client()
        .delete_bucket()
        .bucket(name)
        .send()
        .await
        .unwrap();
}

#[tokio::test]
async fn wrong_keys_and_a_storage_that_is_away_are_told_apart() {
    let (context, _) = fixture().await;
    let wrong = BlobArgs {
        s3_secret_key: "SECRET-GUESS".to_owned(),
        ..args(&context)
    };
    assert!(!format!("{wrong:?}").contains("SECRET"));
    let error = Blob::connect(&wrong)
        .unwrap()
        .get(&photo(1, 1, 1), 1)
        .await
        .unwrap_err();
    assert!(matches!(error, BlobError::Refused { .. }), "{error}");

    let away = BlobArgs {
        s3_endpoint: Some("http://127.0.0.1:1".to_owned()),
        ..args(&context)
    };
    let error = Blob::connect(&away).unwrap().check().await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    let error: likeness_domain::Error = error.into();
    assert!(
        error.is_retryable() && error.to_string().contains("storage"),
        "{error}"
    );

    for bad in [
        "",
        "s3.example.com",
        "ftp://x",
        "http://",
        "http://me:pw@x",
        "http://x?y",
    ] {
        let args = BlobArgs {
            s3_endpoint: Some(bad.to_owned()),
            ..args(&context)
        };
        assert!(
            matches!(Blob::connect(&args), Err(BlobError::Endpoint)),
            "{bad}"
        );
    }
}
