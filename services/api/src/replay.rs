//! Idempotent creation: the same tenant, method, `request_id` and payload return the same resources.

use likeness_domain::{Error, TenantId};
use likeness_registry::{
    PgConnection,
    idempotency::{self, IdempotencyKey, Replay},
};
use ring::digest::{Context, SHA256};
use uuid::Uuid;

use crate::app::App;

const MAX_REQUEST_ID: usize = 128;

/// A request that may be a repetition.
pub struct Request {
    tenant: Option<TenantId>,
    method: &'static str,
    id: String,
    payload_sha256: [u8; 32],
}

impl Request {
    /// A request by what its client calls it; with an empty id it is never a repetition. `parts` are all that it asks
    /// for, encoded.
    pub fn new(
        tenant: Option<TenantId>,
        method: &'static str,
        request_id: String,
        parts: &[&[u8]],
    ) -> Result<Self, Error> {
        if request_id.len() > MAX_REQUEST_ID {
            let expected = format!("expected at most {MAX_REQUEST_ID} bytes");
            return Err(Error::invalid_field("request_id", expected));
        }
        if request_id.contains('\0') {
            let expected = "expected text without NUL characters";
            return Err(Error::invalid_field("request_id", expected));
        }
        Ok(Self {
            tenant,
            method,
            id: request_id,
            payload_sha256: digest(parts),
        })
    }

    fn key(&self) -> Option<IdempotencyKey<'_>> {
        (!self.id.is_empty()).then_some(IdempotencyKey {
            tenant: self.tenant,
            method: self.method,
            request_id: &self.id,
            payload_sha256: self.payload_sha256,
        })
    }

    /// What the first request of this id made, where this is a repetition. Otherwise the id is taken in the caller's
    /// transaction, and a concurrent twin waits for it.
    pub async fn begin(
        &self,
        conn: &mut PgConnection,
        app: &App,
    ) -> Result<Option<Vec<Uuid>>, Error> {
        let Some(key) = &self.key() else {
            return Ok(None);
        };
        Ok(
            match idempotency::begin(conn, key, app.clock.now()).await? {
                Replay::New => None,
                Replay::Same(ids) => Some(ids),
            },
        )
    }

    /// What tells it from other requests; nothing for one that is never a repetition.
    pub fn identity(&self) -> Option<(Option<TenantId>, &'static str, &str)> {
        (!self.id.is_empty()).then_some((self.tenant, self.method, self.id.as_str()))
    }

    /// Remembers what this request made.
    pub async fn record(&self, conn: &mut PgConnection, ids: &[Uuid]) -> Result<(), Error> {
        match &self.key() {
            Some(key) => idempotency::record(conn, key, ids).await,
            None => Ok(()),
        }
    }
}

/// What the first requests of these ids made, where these are repetitions. Each other id is taken in the caller's
/// transaction, for the resource that its request is about to make.
pub async fn begin_all(
    conn: &mut PgConnection,
    app: &App,
    asked: &[(&Request, Uuid)],
) -> Result<Vec<Result<Option<Vec<Uuid>>, Error>>, Error> {
    let keys = asked
        .iter()
        .filter_map(|(request, resource)| Some((request.key()?, *resource)));
    let keys: Vec<(IdempotencyKey<'_>, Uuid)> = keys.collect();
    let mut replays = Vec::new();
    if !keys.is_empty() {
        replays = idempotency::begin_all(conn, &keys, app.clock.now()).await?;
    }
    let mut replays = replays.into_iter();
    let answers = asked.iter().map(|(request, _)| {
        let replay = match request.key() {
            None => Ok(Replay::New),
            Some(_) => replays
                .next()
                .unwrap_or_else(|| Err(Error::internal("too few replays"))),
        };
        Ok(match replay? {
            Replay::New => None,
            Replay::Same(ids) => Some(ids),
        })
    });
    Ok(answers.collect())
}

/// SHA-256 over the parts, each with its length, so that no two lists of parts run together.
fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part);
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
        assert_eq!(digest(&[b"ab"]), digest(&[b"ab"]));
    }

    #[test]
    fn a_request_id_that_is_long_or_cannot_be_stored_is_refused() {
        assert!(Request::new(None, "m", "x".repeat(129), &[]).is_err());
        assert!(Request::new(None, "m", "a\0b".to_owned(), &[]).is_err());
        assert!(Request::new(None, "m", "x".repeat(128), &[]).is_ok());
    }
}
