use likeness_sdxl::parts::Variables;

use super::*;
use crate::{AdamW, Gradients, Group, Settings};

fn judge(variables: &Variables) -> Judge {
    let weights = Weights::variables(variables, &Device::Cpu);
    Judge::load(&weights, &Device::Cpu).unwrap()
}

#[test]
fn a_few_steps_teach_it_something() {
    let variables = Variables::new(1, &Device::Cpu);
    let judge = judge(&variables);
    let all = variables.all();
    let mut adam = AdamW::new(&all, Settings::default(), |_, var| Group::of(var)).unwrap();
    let mut losses = Vec::new();
    for step in 0..16 {
        let who: Vec<(u64, u64)> = (0..12).map(|n| (n % 4, n)).collect();
        let loss = judge.loss(&spoilt(&who, 1, step), &who).unwrap();
        losses.push(loss.to_scalar::<f32>().unwrap());
        // The gradient of every weight is there: nothing of the network is dropped.
        adam.step(&Gradients::of(&loss, &all).unwrap(), 3e-3)
            .unwrap();
    }
    assert!(losses[15] < 0.7 * losses[0], "{losses:?}");
}

#[test]
fn it_is_small_and_comes_back_from_its_file() {
    let variables = Variables::new(1, &Device::Cpu);
    let judge = judge(&variables);
    let all = variables.all();
    let numbers: usize = all.values().map(|var| var.elem_count()).sum();
    assert!(numbers < 400_000, "{numbers}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("judge.safetensors");
    let tensors: std::collections::HashMap<_, _> = all
        .into_iter()
        .map(|(name, var)| (name, var.as_tensor().clone()))
        .collect();
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let again = Judge::read(&path, &Device::Cpu).unwrap();
    let other = folder.path().join("judge.md");
    std::fs::copy(&path, &other).unwrap();
    for wrong in [other, folder.path().join("nobody.safetensors")] {
        let refused = Judge::read(&wrong, &Device::Cpu).err().unwrap();
        assert!(refused.to_string().contains("likeness train judge"));
    }
    let large = draw(&Identity::drawn(1), &Setting::drawn(2), 128);
    let pictures = [spoilt(&[(1, 2)], 1, 1).remove(0), large];
    let told = judge.tell(&pictures).unwrap();
    assert_eq!(told, again.tell(&pictures).unwrap());
    for options in told[1].identity.iter().chain(&told[1].setting) {
        assert!((options.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    }
}

#[test]
fn spoiling_keeps_the_mean_and_follows_from_its_seed() {
    let who = [(1, 2), (3, 4), (5, 6), (7, 8)];
    assert_eq!(spoilt(&who, 1, 2), spoilt(&who, 1, 2));
    assert_ne!(spoilt(&who, 1, 2), spoilt(&who, 1, 3));
    let mean = |picture: &RgbImage| {
        let sum: f64 = picture.as_raw().iter().map(|&v| f64::from(v)).sum();
        sum / picture.as_raw().len() as f64
    };
    for (spoilt, who) in spoilt(&who, 1, 2).iter().zip(who) {
        let drawn = draw(&Identity::drawn(who.0), &Setting::drawn(who.1), SIDE);
        assert!((mean(spoilt) - mean(&drawn)).abs() < 2.0);
    }
}
