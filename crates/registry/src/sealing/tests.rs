//! What opens and what does not.

use likeness_domain::{ErrorKind, SystemClock, coefficients::Coefficients};

use super::*;

const OLD: &str = "2025:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const NEW: &str = "2026:Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";

fn ring(text: &str) -> KeyRing {
    KeyRing::parse(text).unwrap()
}

fn context() -> SealingContext<'static> {
    SealingContext {
        tenant: TenantId::generate(&SystemClock),
        identity: IdentityId::generate(&SystemClock),
        photo: PhotoId::generate(&SystemClock),
        encoder: "e1",
    }
}

fn coefficients() -> StoredCoefficients {
    let values = (1..=8).map(|value| value as f32).collect();
    StoredCoefficients::from_coefficients(&Coefficients::new(2, 4, values).unwrap())
}

fn refuses(ring: &KeyRing, context: &SealingContext<'_>, sealed: &SealedCoefficients) {
    assert_eq!(
        ring.open(context, sealed).unwrap_err().kind,
        ErrorKind::Internal
    );
}

#[test]
fn what_was_sealed_opens_and_never_looks_the_same() {
    let (ring, context, plain) = (ring(OLD), context(), coefficients());
    let sealed = ring.seal(&context, &plain).unwrap();
    assert_eq!(ring.open(&context, &sealed).unwrap(), plain);
    assert_eq!(
        (sealed.tokens, sealed.k, sealed.key_id.as_str()),
        (2, 4, "2025")
    );
    assert_eq!(sealed.sealed.len(), 12 + plain.to_bytes().len() + 16);
    assert_ne!(sealed.sealed, ring.seal(&context, &plain).unwrap().sealed);
}

#[test]
fn a_single_changed_bit_anywhere_is_refused() {
    let (ring, context) = (ring(OLD), context());
    let sealed = ring.seal(&context, &coefficients()).unwrap();
    for at in 0..sealed.sealed.len() {
        let mut altered = sealed.clone();
        altered.sealed[at] ^= 1;
        refuses(&ring, &context, &altered);
    }
    for length in [0, 11, 12, 27, sealed.sealed.len() - 1] {
        let mut cut = sealed.clone();
        cut.sealed.truncate(length);
        refuses(&ring, &context, &cut);
    }
    refuses(
        &ring,
        &context,
        &SealedCoefficients {
            tokens: 4,
            k: 2,
            ..sealed
        },
    );
}

#[test]
fn another_context_does_not_open() {
    let (ring, context, other) = (ring(OLD), context(), context());
    let sealed = ring.seal(&context, &coefficients()).unwrap();
    refuses(
        &ring,
        &SealingContext {
            tenant: other.tenant,
            ..context
        },
        &sealed,
    );
    refuses(
        &ring,
        &SealingContext {
            identity: other.identity,
            ..context
        },
        &sealed,
    );
    refuses(
        &ring,
        &SealingContext {
            photo: other.photo,
            ..context
        },
        &sealed,
    );
    refuses(
        &ring,
        &SealingContext {
            encoder: "e2",
            ..context
        },
        &sealed,
    );
}

#[test]
fn an_embedding_opens_in_its_own_context_alone() {
    let (ring, context) = (ring(OLD), context());
    let plain = FaceEmbedding::new(vec![0.6, 0.8]).unwrap();
    let sealed = ring.seal_embedding(&context, &plain).unwrap();
    assert_eq!(ring.open_embedding(&context, &sealed).unwrap(), plain);
    let photo = PhotoId::generate(&SystemClock);
    let elsewhere = SealingContext { photo, ..context };
    assert!(ring.open_embedding(&elsewhere, &sealed).is_err());
    let mut altered = sealed.clone();
    altered.sealed[12] ^= 1;
    assert!(ring.open_embedding(&context, &altered).is_err());
    let taken_for_coefficients = SealedCoefficients {
        encoder: context.encoder.to_owned(),
        tokens: 1,
        k: 2,
        key_id: sealed.key_id,
        sealed: sealed.sealed,
    };
    refuses(&ring, &context, &taken_for_coefficients);
}

#[test]
fn a_new_key_seals_and_the_old_one_still_opens() {
    let (context, plain) = (context(), coefficients());
    let old = ring(OLD).seal(&context, &plain).unwrap();
    let rotated = ring(&format!("{NEW}, {OLD}"));
    assert_eq!(rotated.open(&context, &old).unwrap(), plain);
    let new = rotated.seal(&context, &plain).unwrap();
    assert_eq!(new.key_id, "2026");
    refuses(&ring(OLD), &context, &new);
    // The same id with other bytes is another key.
    refuses(&ring(&OLD.replace("AAEC", "BBEC")), &context, &old);
}

#[test]
fn a_bad_ring_is_refused_without_showing_its_keys() {
    let refusal = |text: &str| KeyRing::parse(text).unwrap_err();
    assert_eq!(refusal(" , "), KeyRingError::Empty);
    assert_eq!(refusal("no-colon"), KeyRingError::Form { position: 1 });
    assert_eq!(refusal("a:c2hvcnQ="), KeyRingError::Form { position: 1 });
    assert_eq!(refusal("a:not base64"), KeyRingError::Form { position: 1 });
    assert_eq!(
        refusal(&format!("{OLD},b/{NEW}")),
        KeyRingError::Id { position: 2 }
    );
    assert_eq!(
        refusal(&format!("{OLD},:AAAA")),
        KeyRingError::Id { position: 2 }
    );
    assert_eq!(
        refusal(&format!("{OLD},{OLD}")),
        KeyRingError::Repeated { position: 2 }
    );
    let shown = format!("{:?}", ring(&format!("{NEW},{OLD}")));
    assert_eq!(shown, r#"KeyRing { primary: "2026", older: ["2025"] }"#);
}

#[test]
fn base_coefficients_are_not_taken_for_the_others() {
    let (ring, context, plain) = (ring(OLD), context(), coefficients());
    let sealed = ring.seal_base(&context, &plain).unwrap();
    assert_eq!(ring.open_base(&context, &sealed).unwrap(), plain);
    refuses(&ring, &context, &sealed);
    let other = ring.seal(&context, &plain).unwrap();
    assert!(ring.open_base(&context, &other).is_err());
}
