//! Uploads against a storage that fails as told.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of a test fails the test"
)]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use likeness_blob::{UploadError, Uploader};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// Answers each request with the next status, 0 being a broken connection; then always with the last.
async fn storage(statuses: &'static [u16]) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "http://{}/SECRET-LINK?sign=SECRET",
        listener.local_addr().unwrap()
    );
    let count = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&count);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let at = asked.fetch_add(1, Ordering::SeqCst).min(statuses.len() - 1);
            answer(stream, statuses[at]).await;
        }
    });
    (url, count)
}

async fn answer(mut stream: TcpStream, status: u16) {
    let mut request = Vec::new();
    while !request.ends_with(b"BODY") {
        assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
    }
    if status > 0 {
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
    }
}

async fn upload(url: &str) -> Result<(), UploadError> {
    Uploader::new()
        .unwrap()
        .put(url, "image/png", Bytes::from_static(b"BODY"))
        .await
}

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    let (url, count) = storage(&[503, 0, 429, 200]).await;
    upload(&url).await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_refusal_is_final_and_a_redirect_is_one() {
    for status in [&[403], &[400], &[307]] {
        let (url, count) = storage(status).await;
        let error = upload(&url).await.unwrap_err();
        assert!(matches!(error, UploadError::Refused { status: found } if found == status[0]));
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn in_the_end_it_gives_up_and_never_shows_the_link() {
    let (url, count) = storage(&[500]).await;
    let (failing, away) = tokio::join!(upload(&url), upload("http://127.0.0.1:1/SECRET-LINK"));
    let (failing, away) = (failing.unwrap_err(), away.unwrap_err());
    assert!(
        matches!(
            failing,
            UploadError::Failing {
                status: 500,
                attempts: 5
            }
        ),
        "{failing}"
    );
    assert_eq!(count.load(Ordering::SeqCst), 5);
    assert!(
        matches!(away, UploadError::Away { attempts: 5, .. }),
        "{away}"
    );
    let not_a_link = upload("SECRET-LINK").await.unwrap_err();
    assert!(matches!(not_a_link, UploadError::Link), "{not_a_link}");
    for error in [failing, away, not_a_link] {
        let text = format!("{error} {error:?}");
        assert!(!text.contains("SECRET"), "{text}");
    }
}
