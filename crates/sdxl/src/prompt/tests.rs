use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use super::*;
use crate::pipeline::load::text_stack;
use crate::testing::{TinySdxl, relative_error, request};
use crate::{LoadOptions, SampleRequest, Scheduler};

/// `tests/data/text.json`, made by `tests/parity/sdxl_text.py`.
fn fixture() -> Value {
    serde_json::from_str(include_str!("../../tests/data/text.json")).unwrap()
}

fn expected() -> HashMap<String, Tensor> {
    let data = include_bytes!("../../tests/data/text.safetensors");
    candle_core::safetensors::load_buffer(data, &Device::Cpu).unwrap()
}

fn text() -> TextStack {
    text_as(DType::F32)
}

fn text_as(dtype: DType) -> TextStack {
    text_stack(&TinySdxl::write().path(""), dtype)
}

fn encode(text: &TextStack, prompt: &str, clip_skip: u32) -> PromptStates {
    let tokens = text.tokens("prompt", prompt).unwrap();
    let clip_skip = text.clip_skip(clip_skip).unwrap();
    text.encode(&tokens, clip_skip, 1).unwrap()
}

#[track_caller]
fn assert_close(what: &str, ours: &Tensor, theirs: &Tensor, limit: f64) {
    // Of short prompts the fixture has the first tokens.
    let ours = ours.narrow(1, 0, theirs.dim(1).unwrap()).unwrap();
    let error = relative_error(&ours, theirs);
    println!("{what}: relative error {error:.1e}");
    assert!(error <= limit, "{what}: {error:e}");
}

#[test]
fn weighted_prompts_equal_transformers_states_with_the_formula() {
    let (text, expected) = (text(), expected());
    for (i, prompt) in fixture()["weighted"].as_array().unwrap().iter().enumerate() {
        let ours = encode(&text, prompt.as_str().unwrap(), 2);
        let name = format!("weighted.{i}");
        assert_close(&name, &ours.states, &expected[&name], 1e-5);
        let name = format!("weighted.pooled.{i}");
        assert_close(&name, &ours.pooled, &expected[&name], 1e-5);
    }
}

#[test]
fn clip_skip_equals_transformers() {
    let (text, expected, fixture) = (text(), expected(), fixture());
    let prompt = fixture["skip"].as_str().unwrap();
    for skip in 1..=3 {
        let ours = encode(&text, prompt, skip);
        let name = format!("skip.{skip}");
        assert_close(&name, &ours.states, &expected[&name], 1e-5);
        let name = format!("skip.pooled.{skip}");
        assert_close(&name, &ours.pooled, &expected[&name], 1e-5);
    }
}

#[test]
fn a_clip_skip_beyond_the_layers_is_refused_with_the_range() {
    let text = text();
    for skip in [0, 4, u32::MAX] {
        let error = text.clip_skip(skip).unwrap_err().to_string();
        assert!(
            error.contains("clip_skip") && error.contains("to 3"),
            "{error}"
        );
    }
}

#[test]
fn long_prompts_equal_transformers() {
    let (text, expected, fixture) = (text(), expected(), fixture());
    let ours = encode(&text, fixture["long"].as_str().unwrap(), 2);
    assert_eq!(ours.windows, 3);
    assert_close("long", &ours.states, &expected["long"], 1e-5);
    assert_close("long pooled", &ours.pooled, &expected["long.pooled"], 1e-5);
}

#[test]
fn a_batch_equals_transformers_under_every_rule_of_the_end_token() {
    let (expected, fixture) = (expected(), fixture());
    let prompts: Vec<&str> = fixture["batch"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p.as_str().unwrap())
        .collect();
    let word = text().second.tokenizer.ids("prompt", "a").unwrap()[0];
    for (name, eos) in [("end", 599), ("largest", 2), ("word", word)] {
        let model = TinySdxl::write();
        model.set("text_encoder_2/config.json", "eos_token_id", json!(eos));
        let text = text_stack(&model.path(""), DType::F32);
        let Branch { tokenizer, encoder } = &text.second;
        let windows: Vec<Vec<u32>> = prompts
            .iter()
            .map(|prompt| {
                let ids = tokenizer.ids("prompt", prompt).unwrap();
                tokenizer.windows(&ids, 77).swap_remove(0)
            })
            .collect();
        let skip = text.clip_skip(2).unwrap();
        let batch = encoder.forward(&windows, skip).unwrap();
        let pooled = batch.pooled.unwrap();
        assert_close(
            name,
            &pooled,
            &expected[&format!("batch.pooled.{name}")],
            1e-5,
        );
        assert_close("states", &batch.states, &expected["batch.states"], 1e-5);
        for (row, window) in windows.into_iter().enumerate() {
            let alone = encoder.forward(&[window], skip).unwrap();
            let row = batch.states.narrow(0, row, 1).unwrap();
            assert!(relative_error(&alone.states, &row) < 1e-6);
        }
    }
}

#[test]
fn weights_of_one_change_no_bit() {
    let text = text();
    let values = |prompt: &str| {
        encode(&text, prompt, 2)
            .states
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
    };
    let plain = values("a portrait (of) the person");
    assert_ne!(plain, values("a portrait of the person"));
    let plain = values("a portrait of the person");
    for same in [
        "a (portrait:1) of the person",
        "([a portrait of the person])",
        r"a \portrait of the person",
    ] {
        assert_eq!(values(same), plain, "{same}");
    }
}

#[test]
fn repeated_prompts_are_encoded_once() {
    let model = TinySdxl::write().load().unwrap();
    let long = SampleRequest {
        prompt: "a portrait ".repeat(60),
        ..request(Scheduler::Euler)
    };
    let first = model.prompt_embeddings(&long).unwrap();
    // The prompt, the negative one, and the empty windows behind it.
    assert_eq!(model.encoded_prompts(), 3);
    let again = SampleRequest {
        seed: 99,
        ..long.clone()
    };
    let second = model.prompt_embeddings(&again).unwrap();
    assert_eq!(model.encoded_prompts(), 3);
    assert!(relative_error(&first.states, &second.states) == 0.0);
    let deeper = SampleRequest {
        clip_skip: 1,
        ..long.clone()
    };
    model.prompt_embeddings(&deeper).unwrap();
    assert_eq!(model.encoded_prompts(), 6);
    let weighted = SampleRequest {
        prompt: format!("({})", long.prompt),
        ..long
    };
    model.prompt_embeddings(&weighted).unwrap();
    // A weight on everything is none.
    assert!(model.encoded_prompts() <= 7);
}

#[test]
fn any_text_is_encoded_or_refused_by_field() {
    let text = text();
    let refused = [
        "x".repeat(100_000),
        "é ".repeat(700),
        "(a:101)".to_owned(),
        format!("{}a", "(".repeat(2_000)),
    ];
    for prompt in refused {
        let error = text.tokens("negative_prompt", &prompt).err().unwrap();
        assert!(
            matches!(
                error,
                Error::BadRequest {
                    field: "negative_prompt",
                    ..
                }
            ),
            "{error}"
        );
        assert!(!error.to_string().contains("xxx"));
    }
    for prompt in [
        "(".repeat(8_000),
        "a\0b (\0:1.5)".to_owned(),
        "[]()\\".repeat(100),
        "<|endoftext|> (<|endoftext|>:1.2)".to_owned(),
    ] {
        let states = encode(&text, &prompt, 2).states;
        let sum = states
            .sqr()
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        assert!(sum.is_finite());
    }
}

#[test]
fn half_precision_is_close_on_the_cpu() {
    let (full, half) = (text(), text_as(DType::F16));
    for prompt in ["a portrait", "a (portrait:1.4) of [the person]"] {
        let (full, half) = (encode(&full, prompt, 2), encode(&half, prompt, 2));
        assert_eq!(half.states.dtype(), DType::F16);
        assert!(relative_error(&half.states, &full.states) < 1e-2);
        assert!(relative_error(&half.pooled, &full.pooled) < 1e-2);
    }
}

#[test]
fn number_types_that_the_cpu_lacks_are_refused_while_loading() {
    let model = TinySdxl::write();
    for dtype in [DType::BF16, DType::F64, DType::U8] {
        let options = LoadOptions {
            device: Device::Cpu,
            dtype,
        };
        let error = crate::Sdxl::load(&model.path(""), &options).err().unwrap();
        assert!(matches!(error, Error::NumberType { .. }), "{error}");
    }
}

#[test]
fn captions_are_plain_words_in_one_window() {
    let text = text();
    let long = "word ".repeat(200);
    let captions = ["a person", "a (person:1.4)", &long].map(str::to_owned);
    let (states, pooled) = text.captions(&captions).unwrap();
    let one = encode(&text, "a person", 2);
    assert_eq!(states.dims()[0], 3);
    assert_eq!(states.dims()[1..], one.states.dims()[1..]);
    let first = |x: &Tensor| x.narrow(0, 0, 1).unwrap();
    assert!(relative_error(&first(&states), &one.states) < 1e-5);
    assert!(relative_error(&first(&pooled), &one.pooled) < 1e-5);
    // Brackets are words here: a prompt that escapes them is the same.
    let escaped = encode(&text, r"a \(person:1.4\)", 2);
    let second = states.narrow(0, 1, 1).unwrap();
    assert!(relative_error(&second, &escaped.states) < 1e-5);
}
