use super::*;

#[test]
fn a_scene_follows_from_its_chance_and_shows_the_face_where_it_says() {
    let mut faces = 0;
    for step in 0..40 {
        let draw = || scene(&mut Chance::at(1, step, "scenes"), 100, 128);
        let (one, other) = (draw(), draw());
        assert!(one.picture == other.picture && one.face == other.face);
        let Some(face) = one.face else { continue };
        faces += 1;
        let [left, top, right, bottom] = face.bbox;
        let middle = [f32::midpoint(left, right), f32::midpoint(top, bottom)];
        assert!(middle.iter().all(|k| (0.0..128.0).contains(k)), "{step}");
        let longer = (right - left).max(bottom - top);
        assert!((15.0..=125.0).contains(&longer), "{step}: {longer}");
        let within = |p: &[f32; 2]| (left..right).contains(&p[0]) && (top..bottom).contains(&p[1]);
        assert!(face.keypoints.iter().all(within), "{step}");
    }
    assert!((15..35).contains(&faces), "{faces}");
}

#[test]
fn a_view_shows_the_landmarks_around_its_middle() {
    for step in 0..20 {
        let view = view(&mut Chance::at(2, step, "views"), 100);
        assert_eq!(view.picture.dimensions(), (192, 192));
        assert!(view.landmarks.iter().flatten().all(|v| v.abs() < 1.0));
        let spread = |axis: usize| {
            let values = view.landmarks.iter().map(|p| p[axis]);
            values.clone().fold(f32::MIN, f32::max) - values.fold(f32::MAX, f32::min)
        };
        assert!(spread(0).max(spread(1)) > 0.9, "{step}");
    }
}

#[test]
fn the_box_goes_from_where_the_hair_begins_to_the_chin() {
    let mut landmarks = [[10.0, 20.0]; 106];
    landmarks[0] = [30.0, 40.0];
    let off = face_box(&landmarks)
        .into_iter()
        .zip([10.0, 16.0, 30.0, 40.0])
        .map(|(found, expected): (f32, f32)| (found - expected).abs());
    assert!(off.fold(0.0, f32::max) < 1e-5);
}
