//! Coefficients and face embeddings as they are stored: encrypted with AES-256-GCM and bound to the one photo they belong to.
//!
//! Each tenant has its own data key, derived with HKDF-SHA256 from a master key and the tenant's id, so that nothing of
//! one tenant opens with another's key. The ids, the encoder and the sizes are associated data: a row copied elsewhere
//! does not open. The nonce is random, 96 bits, in front: safe for 2³² photos of one tenant (NIST SP 800-38D, 8.3).

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use likeness_domain::{
    Error, IdentityId, PhotoId, TenantId, coefficients::StoredCoefficients,
    embedding::FaceEmbedding,
};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
    rand::{SecureRandom, SystemRandom},
};
use uuid::Uuid;
use zeroize::Zeroizing;

#[cfg(test)]
mod tests;

const KEY_BYTES: usize = 32;
const MAX_ID: usize = 64;
/// Keeps these keys and seals apart from any other use of the same master key.
const PURPOSE: &[u8] = b"likeness.coefficients.1";
/// Keeps sealed base coefficients from being taken for the ID-LoRA's.
const BASE: &[u8] = b"likeness.base-coefficients.1";
/// Keeps a sealed embedding from being taken for sealed coefficients.
const EMBEDDING: &[u8] = b"likeness.face-embedding.1";

/// What is wrong with the text of sealing keys. The keys themselves are not in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRingError {
    /// There is no key at all.
    #[error("no sealing key; expected `id:key`, the key being 32 random bytes in base64")]
    Empty,
    /// An entry is no `id:key`.
    #[error("sealing key {position}: expected `id:key`, the key being 32 random bytes in base64")]
    Form {
        /// Which entry, from 1.
        position: usize,
    },
    /// An id is empty, long, or has characters that would need quoting.
    #[error(
        "sealing key {position}: expected an id of 1 to {MAX_ID} letters, digits, `-`, `_` or `.`"
    )]
    Id {
        /// Which entry, from 1.
        position: usize,
    },
    /// Two entries have the same id.
    #[error("sealing key {position} has an id that an earlier one has; ids are never used again")]
    Repeated {
        /// Which entry, from 1.
        position: usize,
    },
}

/// What sealed coefficients belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealingContext<'a> {
    /// Whose.
    pub tenant: TenantId,
    /// Of which identity.
    pub identity: IdentityId,
    /// Predicted from which photo.
    pub photo: PhotoId,
    /// By which encoder: its digest.
    pub encoder: &'a str,
}

/// Coefficients that only their tenant's data key opens.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedCoefficients {
    /// The digest of the encoder they belong to.
    pub encoder: String,
    /// How many tokens.
    pub tokens: u32,
    /// How many numbers each token has.
    pub k: u32,
    /// The id of the master key.
    pub key_id: String,
    /// Nonce, cipher text, tag.
    pub sealed: Vec<u8>,
}

impl fmt::Debug for SealedCoefficients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SealedCoefficients[{} x {}, key {}]",
            self.tokens, self.k, self.key_id
        )
    }
}

/// A face embedding that only its tenant's data key opens.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedEmbedding {
    /// The id of the master key.
    pub key_id: String,
    /// Nonce, cipher text, tag.
    pub sealed: Vec<u8>,
}

impl fmt::Debug for SealedEmbedding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedEmbedding[key {}]", self.key_id)
    }
}

/// The master keys: the first seals, all of them open.
pub struct KeyRing {
    primary: MasterKey,
    older: Vec<MasterKey>,
}

struct MasterKey {
    id: String,
    bytes: Zeroizing<[u8; KEY_BYTES]>,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let older: Vec<_> = self.older.iter().map(|key| &key.id).collect();
        f.debug_struct("KeyRing")
            .field("primary", &self.primary.id)
            .field("older", &older)
            .finish()
    }
}

impl KeyRing {
    /// Reads `id:key[,id:key…]`, each key 32 bytes in base64, the one that seals first.
    ///
    /// # Errors
    /// If there is no key, or one has not this form.
    pub fn parse(text: &str) -> Result<Self, KeyRingError> {
        let mut keys: Vec<MasterKey> = Vec::new();
        let entries = text
            .split(',')
            .map(str::trim)
            .filter(|entry| !entry.is_empty());
        for (entry, position) in entries.zip(1..) {
            let key = MasterKey::parse(entry, position)?;
            if keys.iter().any(|earlier| earlier.id == key.id) {
                return Err(KeyRingError::Repeated { position });
            }
            keys.push(key);
        }
        let mut keys = keys.into_iter();
        let primary = keys.next().ok_or(KeyRingError::Empty)?;
        Ok(Self {
            primary,
            older: keys.collect(),
        })
    }

    /// Encrypts a photo's coefficients with the primary key.
    ///
    /// # Errors
    /// An internal one, if the system has no random numbers.
    pub fn seal(
        &self,
        context: &SealingContext<'_>,
        coefficients: &StoredCoefficients,
    ) -> Result<SealedCoefficients, Error> {
        self.seal_as(PURPOSE, context, coefficients)
    }

    /// Encrypts a photo's base coefficients with the primary key.
    ///
    /// # Errors
    /// As [`KeyRing::seal`].
    pub fn seal_base(
        &self,
        context: &SealingContext<'_>,
        coefficients: &StoredCoefficients,
    ) -> Result<SealedCoefficients, Error> {
        self.seal_as(BASE, context, coefficients)
    }

    fn seal_as(
        &self,
        purpose: &[u8],
        context: &SealingContext<'_>,
        coefficients: &StoredCoefficients,
    ) -> Result<SealedCoefficients, Error> {
        let (tokens, k) = (size(coefficients.tokens())?, size(coefficients.k())?);
        let associated = coefficients_data(purpose, context, tokens, k);
        Ok(SealedCoefficients {
            encoder: context.encoder.to_owned(),
            tokens,
            k,
            key_id: self.primary.id.clone(),
            sealed: self.encrypt(context.tenant, associated, &coefficients.to_bytes())?,
        })
    }

    /// Decrypts a photo's coefficients.
    ///
    /// # Errors
    /// An internal one: the master key is not in the ring, or the row was altered or belongs elsewhere.
    pub fn open(
        &self,
        context: &SealingContext<'_>,
        sealed: &SealedCoefficients,
    ) -> Result<StoredCoefficients, Error> {
        self.open_as(PURPOSE, "photo_coefficients", context, sealed)
    }

    /// Decrypts a photo's base coefficients.
    ///
    /// # Errors
    /// As [`KeyRing::open`].
    pub fn open_base(
        &self,
        context: &SealingContext<'_>,
        sealed: &SealedCoefficients,
    ) -> Result<StoredCoefficients, Error> {
        self.open_as(BASE, "photo_base_coefficients", context, sealed)
    }

    fn open_as(
        &self,
        purpose: &[u8],
        table: &'static str,
        context: &SealingContext<'_>,
        sealed: &SealedCoefficients,
    ) -> Result<StoredCoefficients, Error> {
        let unopened = |why| unopened(table, context.photo, why);
        let associated = coefficients_data(purpose, context, sealed.tokens, sealed.k);
        let mut buffer = Zeroizing::new(sealed.sealed.clone());
        let plain = self
            .decrypt(&sealed.key_id, context.tenant, associated, &mut buffer)?
            .map_err(unopened)?;
        let coefficients = StoredCoefficients::from_bytes(plain).map_err(Error::internal)?;
        if (size(coefficients.tokens())?, size(coefficients.k())?) != (sealed.tokens, sealed.k) {
            return Err(unopened("its sizes differ from the row's"));
        }
        Ok(coefficients)
    }

    /// Encrypts a photo's face embedding with the primary key.
    ///
    /// # Errors
    /// An internal one, if the system has no random numbers.
    pub fn seal_embedding(
        &self,
        context: &SealingContext<'_>,
        embedding: &FaceEmbedding,
    ) -> Result<SealedEmbedding, Error> {
        let associated = embedding_data(context);
        Ok(SealedEmbedding {
            key_id: self.primary.id.clone(),
            sealed: self.encrypt(context.tenant, associated, &embedding.to_bytes())?,
        })
    }

    /// Decrypts a photo's face embedding.
    ///
    /// # Errors
    /// An internal one: the master key is not in the ring, or the row was altered or belongs elsewhere.
    pub fn open_embedding(
        &self,
        context: &SealingContext<'_>,
        sealed: &SealedEmbedding,
    ) -> Result<FaceEmbedding, Error> {
        let associated = embedding_data(context);
        let mut buffer = Zeroizing::new(sealed.sealed.clone());
        let plain = self
            .decrypt(&sealed.key_id, context.tenant, associated, &mut buffer)?
            .map_err(|why| unopened("photo_embeddings", context.photo, why))?;
        FaceEmbedding::from_bytes(plain).map_err(Error::internal)
    }

    fn encrypt(
        &self,
        tenant: TenantId,
        associated: Vec<u8>,
        plain: &[u8],
    ) -> Result<Vec<u8>, Error> {
        // Grown once, so that no copy of the plain text is left behind.
        let mut sealed = Vec::with_capacity(NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
        sealed.extend(random_nonce()?);
        sealed.extend_from_slice(plain);
        encrypt(&self.primary.data_key(tenant)?, associated, &mut sealed)?;
        Ok(sealed)
    }

    /// The plain text in `buffer`, or why it does not open.
    fn decrypt<'a>(
        &self,
        key_id: &str,
        tenant: TenantId,
        associated: Vec<u8>,
        buffer: &'a mut [u8],
    ) -> Result<Result<&'a [u8], &'static str>, Error> {
        let Some(key) = self.master(key_id) else {
            return Ok(Err("its master key is not in the ring"));
        };
        let plain = decrypt(&key.data_key(tenant)?, associated, buffer);
        Ok(plain.ok_or("it was altered or belongs elsewhere"))
    }

    fn master(&self, id: &str) -> Option<&MasterKey> {
        std::iter::once(&self.primary)
            .chain(&self.older)
            .find(|key| key.id == id)
    }
}

impl MasterKey {
    fn parse(entry: &str, position: usize) -> Result<Self, KeyRingError> {
        let (id, text) = entry
            .split_once(':')
            .ok_or(KeyRingError::Form { position })?;
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if id.is_empty() || id.len() > MAX_ID || !id.chars().all(fits) {
            return Err(KeyRingError::Id { position });
        }
        let decoded = Zeroizing::new(STANDARD.decode(text).unwrap_or_default());
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        if decoded.len() != KEY_BYTES {
            return Err(KeyRingError::Form { position });
        }
        bytes.copy_from_slice(&decoded);
        Ok(Self {
            id: id.to_owned(),
            bytes,
        })
    }

    /// HKDF-SHA256: extract with the purpose as salt, expand with the tenant's id.
    fn data_key(&self, tenant: TenantId) -> Result<LessSafeKey, Error> {
        let master = Salt::new(HKDF_SHA256, PURPOSE).extract(self.bytes.as_slice());
        let info = [tenant.0.as_bytes().as_slice()];
        let derived = master
            .expand(&info, &AES_256_GCM)
            .map_err(|_| underivable())?;
        Ok(LessSafeKey::new(UnboundKey::from(derived)))
    }
}

/// What coefficients are bound to. Everything of a fixed length first, so that no two contexts share their bytes.
fn coefficients_data(purpose: &[u8], context: &SealingContext<'_>, tokens: u32, k: u32) -> Vec<u8> {
    let mut data = purpose.to_vec();
    data.extend(ids(context));
    data.extend(tokens.to_le_bytes());
    data.extend(k.to_le_bytes());
    data.extend(context.encoder.as_bytes());
    data
}

/// What a face embedding is bound to.
fn embedding_data(context: &SealingContext<'_>) -> Vec<u8> {
    let mut data = EMBEDDING.to_vec();
    data.extend(ids(context));
    data.extend(context.encoder.as_bytes());
    data
}

fn ids(context: &SealingContext<'_>) -> impl Iterator<Item = u8> {
    [context.tenant.0, context.identity.0, context.photo.0]
        .into_iter()
        .flat_map(Uuid::into_bytes)
}

fn random_nonce() -> Result<[u8; NONCE_LEN], Error> {
    let mut nonce = [0; NONCE_LEN];
    SystemRandom::new()
        .fill(&mut nonce)
        .map_err(|_| Error::internal("the system gave no random numbers"))?;
    Ok(nonce)
}

/// Encrypts in place what follows the nonce, and appends the tag.
fn encrypt(key: &LessSafeKey, associated: Vec<u8>, buffer: &mut Vec<u8>) -> Result<(), Error> {
    let too_long = || Error::internal("coefficients too long to be sealed");
    let (nonce, plain) = buffer.split_at_mut(NONCE_LEN);
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| too_long())?;
    let tag = key
        .seal_in_place_separate_tag(nonce, Aad::from(associated), plain)
        .map_err(|_| too_long())?;
    buffer.extend_from_slice(tag.as_ref());
    Ok(())
}

/// Decrypts in place; `None` if anything is not as it was sealed.
fn decrypt<'a>(key: &LessSafeKey, associated: Vec<u8>, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let (nonce, sealed) = buffer.split_at_mut_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    key.open_in_place(nonce, Aad::from(associated), sealed)
        .ok()
        .map(|plain| &*plain)
}

fn size(size: usize) -> Result<u32, Error> {
    u32::try_from(size).map_err(Error::internal)
}

fn underivable() -> Error {
    Error::internal("a data key could not be derived")
}

fn unopened(table: &'static str, photo: PhotoId, why: &'static str) -> Error {
    Error::internal(format!("table {table}, row {photo} does not open: {why}"))
}
