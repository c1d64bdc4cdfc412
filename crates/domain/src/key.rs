//! API keys: `lk_{key id}_{secret}`. Only a digest of the secret is stored.
//!
//! A secret is 32 random bytes, so a plain SHA-256 is enough: there is nothing to guess that a slow hash would guard.

use std::fmt;

use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};
use zeroize::Zeroizing;

use crate::{ApiKeyId, Error};

const PREFIX: &str = "lk_";
const SECRET_BYTES: usize = 32;

/// A key as a client sends it.
pub struct PresentedKey {
    /// Which key.
    pub id: ApiKeyId,
    secret: Zeroizing<String>,
}

impl PresentedKey {
    /// A new key with a random secret.
    ///
    /// # Errors
    /// The system's random numbers are out of reach.
    pub fn generate(id: ApiKeyId) -> Result<Self, Error> {
        let mut bytes = Zeroizing::new([0u8; SECRET_BYTES]);
        SystemRandom::new()
            .fill(bytes.as_mut())
            .map_err(|_| Error::internal("the system gave no random numbers"))?;
        let secret = bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>();
        Ok(Self {
            id,
            secret: Zeroizing::new(secret),
        })
    }

    /// Reads what a client sent; `None` where it has not the form of a key.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let is_secret =
            secret.len() == 2 * SECRET_BYTES && secret.bytes().all(|b| b.is_ascii_hexdigit());
        is_secret.then_some(Self {
            id: id.parse().ok()?,
            secret: Zeroizing::new(secret.to_owned()),
        })
    }

    /// What is stored of the secret.
    pub fn secret_digest(&self) -> [u8; 32] {
        secret_digest(&self.secret)
    }

    /// The text that a client sends.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{PREFIX}{}_{}", self.id.0.simple(), *self.secret))
    }
}

impl fmt::Debug for PresentedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PresentedKey({})", self.id)
    }
}

/// SHA-256 of a secret.
pub fn secret_digest(secret: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
    bytes
}

/// Compares digests in a time that does not depend on where they differ.
pub fn digests_equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .fold(0, |difference, (a, b)| difference | (a ^ b))
            == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemClock;

    #[test]
    fn a_key_reads_back_and_its_debug_hides_the_secret() {
        let key = PresentedKey::generate(ApiKeyId::generate(&SystemClock)).unwrap();
        let text = key.reveal();
        let read = PresentedKey::parse(&text).unwrap();
        assert_eq!(read.id, key.id);
        assert!(digests_equal(&read.secret_digest(), &key.secret_digest()));
        assert!(!format!("{key:?}").contains(&text[40..]));
    }

    #[test]
    fn what_is_no_key_is_none() {
        for text in [
            "",
            "lk_",
            "lk_x_y",
            "Bearer",
            "lk_00000000000000000000000000000000_zz",
        ] {
            assert!(PresentedKey::parse(text).is_none(), "{text}");
        }
    }
}
