use super::*;

/// Normal deviates from a small fixed generator: 12 uniforms summed are near enough.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        let uniform = |state: &mut u64| {
            *state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (*state >> 40) as f32 / (1_u64 << 24) as f32
        };
        (0..12).map(|_| uniform(&mut self.0)).sum::<f32>() - 6.0
    }

    fn many(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }

    fn coefficients(&mut self, tokens: usize, k: usize) -> Coefficients {
        Coefficients::new(tokens, k, self.many(tokens * k)).unwrap()
    }
}

fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    let square = |value: f32| f64::from(value) * f64::from(value);
    let error: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    (error / expected.iter().map(|b| square(*b)).sum::<f64>()).sqrt()
}

#[test]
fn sizes_and_values_are_checked() {
    let empty = CoefficientsError::Empty { tokens: 0, k: 4 };
    assert_eq!(Coefficients::new(0, 4, vec![]), Err(empty));
    assert!(Coefficients::new(usize::MAX, 2, vec![]).is_err());
    let short = Coefficients::new(2, 2, vec![0.0; 3]).unwrap_err();
    assert_eq!(
        short.to_string(),
        "coefficients of 2 tokens x 2 numbers need 4 values, found 3"
    );
    let nan = Coefficients::new(2, 2, vec![0.0, 1.0, f32::NAN, 0.0]).unwrap_err();
    assert_eq!(nan, CoefficientsError::NotFinite { token: 1 });
}

#[test]
fn debug_shows_the_shape_alone() {
    let coefficients = Coefficients::new(1, 2, vec![1.5, 2.5]).unwrap();
    let stored = StoredCoefficients::from_coefficients(&coefficients);
    assert_eq!(format!("{coefficients:?}"), "Coefficients[1 x 2]");
    assert_eq!(format!("{stored:?}"), "StoredCoefficients[1 x 2]");
}

#[test]
fn normalised_tokens_have_unit_length_and_empty_ones_stay_empty() {
    let tokens = Coefficients::new(3, 2, vec![3.0, 4.0, 0.0, 0.0, 1e-4, 0.0])
        .unwrap()
        .normalised();
    let expected = [0.6, 0.8, 0.0, 0.0, std::f32::consts::FRAC_1_SQRT_2, 0.0];
    assert!(relative_error(tokens.values(), &expected) < 1e-6);
}

#[test]
fn huge_values_stay_finite() {
    let huge = Coefficients::new(1, 2, vec![f32::MAX, f32::MAX]).unwrap();
    let token = huge.normalised();
    assert!((token.values()[0] - std::f32::consts::FRAC_1_SQRT_2).abs() < 1e-6);
    let stored = StoredCoefficients::from_coefficients(&huge);
    assert!(StoredCoefficients::from_bytes(&stored.to_bytes()).is_ok());
}

#[test]
fn stored_form_keeps_f16_precision_and_fits_its_size() {
    let coefficients = Noise(1).coefficients(1120, 128);
    let stored = StoredCoefficients::from_coefficients(&coefficients);
    let bytes = stored.to_bytes();
    assert!(bytes.len() <= 292_000, "{}", bytes.len());
    let again = StoredCoefficients::from_bytes(&bytes).unwrap();
    assert_eq!(again, stored);
    let error = relative_error(again.to_coefficients().values(), coefficients.values());
    assert!(error < 3e-4, "{error}");
}

#[test]
fn stored_form_spans_magnitudes_that_f16_cannot() {
    let coefficients = Coefficients::new(2, 2, vec![3e6, 4e6, 3e-9, 4e-9]).unwrap();
    let stored = StoredCoefficients::from_coefficients(&coefficients).to_coefficients();
    for (found, expected) in stored.values().iter().zip(coefficients.values()) {
        assert!((found / expected - 1.0).abs() < 1e-3);
    }
}

#[test]
fn bad_bytes_are_refused_by_name() {
    let bytes = StoredCoefficients::from_coefficients(&Noise(2).coefficients(2, 4)).to_bytes();
    let read = StoredCoefficients::from_bytes;
    assert_eq!(read(&[]), Err(CoefficientsError::Header));
    assert_eq!(read(&[0; 64]), Err(CoefficientsError::Header));
    assert!(matches!(
        read(&bytes[..30]),
        Err(CoefficientsError::Length { expected: 36, .. })
    ));
    let mut newer = bytes.to_vec();
    newer[3] = 2;
    assert_eq!(
        read(&newer),
        Err(CoefficientsError::Version {
            found: 2,
            expected: 1
        })
    );
    let mut vast = bytes.to_vec();
    vast[4..12].fill(0xff);
    assert!(matches!(read(&vast), Err(CoefficientsError::Empty { .. })));
    let mut nan = bytes.to_vec();
    nan[34..36].copy_from_slice(&f16::NAN.to_le_bytes());
    assert_eq!(read(&nan), Err(CoefficientsError::NotFinite { token: 1 }));
    let mut infinite = bytes.to_vec();
    infinite[12..16].copy_from_slice(&f32::INFINITY.to_le_bytes());
    assert_eq!(
        read(&infinite),
        Err(CoefficientsError::NotFinite { token: 0 })
    );
}

#[test]
fn f16_bytes_round_trip_and_are_checked() {
    let coefficients = Noise(3).coefficients(8, 16).normalised();
    let bytes = coefficients.to_f16_bytes();
    let again = Coefficients::from_f16_bytes(8, 16, &bytes).unwrap();
    assert!(relative_error(again.values(), coefficients.values()) < 3e-4);
    assert!(matches!(
        Coefficients::from_f16_bytes(8, 16, &bytes[1..]),
        Err(CoefficientsError::Length {
            expected: 256,
            found: 255,
            ..
        })
    ));
    let mut infinite = bytes.to_vec();
    infinite[32..34].copy_from_slice(&f16::INFINITY.to_le_bytes());
    let error = Coefficients::from_f16_bytes(8, 16, &infinite).unwrap_err();
    assert_eq!(error, CoefficientsError::NotFinite { token: 1 });
}

#[test]
fn mean_weighs_photos_by_their_lengths_before_normalising() {
    let photo = |values: [f32; 2]| {
        StoredCoefficients::from_coefficients(&Coefficients::new(1, 2, values.to_vec()).unwrap())
    };
    let photos = [photo([3.0, 0.0]), photo([0.0, 1.0])];
    assert_eq!(mean(&photos).unwrap().values(), [1.5, 0.5]);
    let expected = [0.948_683_3, 0.316_227_77];
    assert!(relative_error(identity(&photos).unwrap().values(), &expected) < 1e-6);
}

#[test]
fn combining_unstored_photos_is_the_same_without_the_rounding() {
    let mut noise = Noise(5);
    let photos: Vec<_> = (0..3).map(|_| noise.coefficients(8, 16)).collect();
    let stored: Vec<_> = photos
        .iter()
        .map(StoredCoefficients::from_coefficients)
        .collect();
    let combined = combine(&photos).unwrap();
    let error = relative_error(combined.values(), identity(&stored).unwrap().values());
    assert!(error > 0.0 && error < 1e-3, "{error}");
    assert_eq!(combine(&[]).unwrap_err(), CoefficientsError::Nothing);
    let other = noise.coefficients(4, 16);
    assert!(combine(&[photos[0].clone(), other]).is_err());
}

#[test]
fn a_photo_can_be_taken_back_by_recomputing() {
    let mut noise = Noise(4);
    let photos: Vec<_> = (0..3)
        .map(|_| StoredCoefficients::from_coefficients(&noise.coefficients(8, 16)))
        .collect();
    let before = identity(&photos[..2]).unwrap();
    let with_third = identity(&photos).unwrap();
    assert!(relative_error(with_third.values(), before.values()) > 0.1);
    assert_eq!(identity(&photos[..2]).unwrap(), before);
}

#[test]
fn combining_checks_shapes_and_presence() {
    let mut noise = Noise(5);
    let (small, large) = (noise.coefficients(8, 4), noise.coefficients(8, 8));
    let photos = [&small, &large].map(StoredCoefficients::from_coefficients);
    let shape = CoefficientsError::Shape {
        tokens: 8,
        k: 4,
        found_tokens: 8,
        found_k: 8,
    };
    assert_eq!(mean(&photos), Err(shape.clone()));
    assert_eq!(blend(&[(small, 0.5), (large, 0.5)]), Err(shape));
    assert_eq!(mean(&[]), Err(CoefficientsError::Nothing));
    assert_eq!(blend(&[]), Err(CoefficientsError::Nothing));
}

#[test]
fn blend_takes_directions_not_lengths() {
    let left = Coefficients::new(1, 2, vec![100.0, 0.0])
        .unwrap()
        .normalised();
    let right = Coefficients::new(1, 2, vec![0.0, 1.0])
        .unwrap()
        .normalised();
    let blended = blend(&[(left.clone(), 0.5), (right.clone(), 0.5)]).unwrap();
    let half = std::f32::consts::FRAC_1_SQRT_2;
    assert!(relative_error(blended.values(), &[half, half]) < 1e-6);
    let alone = blend(&[(left.clone(), 1.0), (right, 0.0)]).unwrap();
    assert!(relative_error(alone.values(), left.values()) < 1e-6);
}

#[test]
fn blend_weights_are_checked() {
    let part = Noise(6).coefficients(8, 4).normalised();
    let weights = |a: f32, b: f32| blend(&[(part.clone(), a), (part.clone(), b)]);
    assert!(weights(0.3, 0.700_05).is_ok());
    assert_eq!(
        weights(1.5, -0.5),
        Err(CoefficientsError::Weight { index: 1 })
    );
    assert_eq!(
        weights(f32::NAN, 0.5),
        Err(CoefficientsError::Weight { index: 0 })
    );
    assert!(matches!(
        weights(0.5, 0.6),
        Err(CoefficientsError::WeightSum { .. })
    ));
    assert!(matches!(
        weights(f32::INFINITY, 0.5),
        Err(CoefficientsError::WeightSum { .. })
    ));
}

/// ΔW of one matrix from its two tokens: `up(c)·down(c)`, `[size, size]` at rank 8.
fn delta(tokens: &Coefficients, basis: &[Vec<f32>; 2], size: usize) -> Vec<f32> {
    const RANK: usize = 8;
    let product = |token: usize| {
        let mut sum = vec![0.0; size * RANK];
        let row = &tokens.values()[token * tokens.k()..(token + 1) * tokens.k()];
        for (coefficient, matrix) in row.iter().zip(basis[token].chunks_exact(size * RANK)) {
            sum.iter_mut()
                .zip(matrix)
                .for_each(|(sum, value)| *sum += coefficient * value);
        }
        sum
    };
    let (down, up) = (product(0), product(1));
    let entry = |i: usize, j: usize| {
        (0..RANK)
            .map(|r| up[i * RANK + r] * down[j * RANK + r])
            .sum()
    };
    (0..size * size)
        .map(|at| entry(at / size, at % size))
        .collect()
}

/// A slider adds the LoRA of one set and subtracts that of a nearly equal one, so that rounding
/// counts much more than in either: this is what decided for f16 over int8.
#[test]
fn a_slider_from_stored_photos_keeps_its_direction() {
    const SIZE: usize = 48;
    const K: usize = 128;
    let mut noise = Noise(7);
    let before = noise.coefficients(2, K).normalised();
    let away = noise.coefficients(2, K).normalised();
    // Adding 0.0447 of an (almost) orthogonal unit vector leaves a cosine of 0.999.
    let mixed = before
        .values()
        .iter()
        .zip(away.values())
        .map(|(a, b)| a + 0.0447 * b)
        .collect();
    let after = Coefficients::new(2, K, mixed).unwrap().normalised();
    let basis = [noise.many(K * SIZE * 8), noise.many(K * SIZE * 8)];

    let slider = |of: &dyn Fn(&Coefficients) -> Coefficients| -> Vec<f32> {
        let (after, before) = (
            delta(&of(&after), &basis, SIZE),
            delta(&of(&before), &basis, SIZE),
        );
        after
            .iter()
            .zip(before)
            .map(|(after, before)| after - before)
            .collect()
    };
    let stored = |c: &Coefficients| identity(&[StoredCoefficients::from_coefficients(c)]).unwrap();
    let claimed =
        |c: &Coefficients| Coefficients::from_f16_bytes(2, K, &stored(c).to_f16_bytes()).unwrap();
    let exact = slider(&Clone::clone);
    for error in [slider(&stored), slider(&claimed)].map(|found| relative_error(&found, &exact)) {
        println!("slider error {error:.5}");
        assert!(error < 0.01, "{error}");
    }
}
