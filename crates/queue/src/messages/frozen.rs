//! The serialised form of every message, letter by letter. A form that changes here parts the services of two
//! versions: only add optional fields, or raise the version.

use std::fmt::Debug;

use chrono::DateTime;
use likeness_domain::{
    RenderId, RenderState, WorkerKind,
    bundle::{BundleSummary, RenderDefaults},
    coefficients::Coefficients,
    embedding::FaceEmbedding,
    render::{
        ImageFormat, RenderProgress, RenderSpec, RenderTimings, RenderedImage, Scheduler, Strength,
    },
};
use uuid::Uuid;

use super::*;
use crate::{CodecError, Message, ServiceError};

const ID: &str = "00000000-0000-0000-0000-000000000007";

fn render() -> RenderId {
    Uuid::from_u128(7).into()
}

fn no_header(_: &'static str) -> Option<String> {
    None
}

/// Both ways, and with a field that a later release might add.
#[track_caller]
fn frozen<T: Message + PartialEq + Debug>(message: &T, json: &str) {
    let parcel = message.encode().unwrap();
    assert_eq!(std::str::from_utf8(&parcel.body).unwrap(), json);
    assert!(parcel.headers.is_empty());
    assert_eq!(&T::decode(&no_header, json.as_bytes()).unwrap(), message);
    let later = json.replacen("{\"v\":1", "{\"v\":1,\"added_later\":{\"x\":[1]}", 1);
    assert_ne!(later, json);
    assert_eq!(&T::decode(&no_header, later.as_bytes()).unwrap(), message);
}

#[test]
fn prompts() {
    let prompt = RenderPrompt {
        render: render(),
        publication: 2,
        alone: false,
    };
    frozen(
        &prompt,
        &format!(r#"{{"v":1,"render":"{ID}","publication":2}}"#),
    );
    let alone = RenderPrompt {
        alone: true,
        ..prompt
    };
    frozen(
        &alone,
        &format!(r#"{{"v":1,"render":"{ID}","publication":2,"alone":true}}"#),
    );
    let prompt = PhotoPrompt {
        photo: Uuid::from_u128(7).into(),
        publication: 1,
    };
    frozen(
        &prompt,
        &format!(r#"{{"v":1,"photo":"{ID}","publication":1}}"#),
    );
}

fn grant() -> Grant {
    Grant {
        attempt: 3,
        lease_seconds: 30,
        spec: RenderSpec {
            model: "pocket".to_owned(),
            id_scale: 0.8,
            base_scale: 0.0,
            prompt: "SECRET-PROMPT".to_owned(),
            negative_prompt: None,
            seed: 42,
            steps: 20,
            guidance: 3.5,
            scheduler: Scheduler::Dpmpp2mKarras,
            width: 256,
            height: 320,
            image_count: 1,
            output_format: ImageFormat::Png,
            init_strength: None,
            face_strength: None,
            best_of: 1,
        },
        expire_time: DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
        coefficient_sets: vec![0.25, 0.75],
        uploads: vec![Upload {
            url: "https://s3/SECRET-LINK".to_owned(),
            content_type: "image/png".to_owned(),
        }],
        upload_expire: DateTime::from_timestamp(1_800_000_600, 0).unwrap(),
        start_url: None,
        alone: false,
        sliders: Vec::new(),
        reference: None,
    }
}

#[test]
fn claims() {
    let claim = ClaimRequest {
        render: render(),
        publication: 2,
        worker: "w".to_owned(),
        stacks: false,
    };
    frozen(
        &claim,
        &format!(r#"{{"v":1,"render":"{ID}","publication":2,"worker":"w"}}"#),
    );
    let stacks = ClaimRequest {
        stacks: true,
        ..claim
    };
    frozen(
        &stacks,
        &format!(r#"{{"v":1,"render":"{ID}","publication":2,"worker":"w","stacks":true}}"#),
    );
    let refused = ClaimReply::Refused {
        reason: Refusal::StalePublication,
    };
    frozen(
        &refused,
        r#"{"v":1,"answer":"REFUSED","reason":"STALE_PUBLICATION"}"#,
    );
    frozen(
        &ClaimReply::Granted(Box::new(grant())),
        concat!(
            r#"{"v":1,"answer":"GRANTED","attempt":3,"lease_seconds":30,"spec":{"model":"pocket","#,
            r#""id_scale":0.8,"base_scale":0.0,"prompt":"SECRET-PROMPT","negative_prompt":null,"#,
            r#""seed":42,"steps":20,"guidance":3.5,"scheduler":"dpmpp_2m_karras","width":256,"#,
            r#""height":320,"image_count":1,"output_format":"png"},"#,
            r#""expire_time":"2027-01-15T08:00:00Z","coefficient_sets":[0.25,0.75],"#,
            r#""uploads":[{"url":"https://s3/SECRET-LINK","content_type":"image/png"}],"#,
            r#""upload_expire":"2027-01-15T08:10:00Z"}"#,
        ),
    );
}

#[test]
fn claims_of_renders_with_options() {
    let plain = grant();
    let spec = RenderSpec {
        init_strength: Some(Strength::try_from(0.35).unwrap()),
        face_strength: Some(Strength::try_from(0.4).unwrap()),
        ..plain.spec.clone()
    };
    let grant = Grant {
        spec,
        start_url: Some("https://s3/SECRET-START".to_owned()),
        alone: true,
        ..plain
    };
    assert!(!format!("{grant:?}").contains("SECRET"));
    frozen(
        &ClaimReply::Granted(Box::new(grant)),
        concat!(
            r#"{"v":1,"answer":"GRANTED","attempt":3,"lease_seconds":30,"spec":{"model":"pocket","#,
            r#""id_scale":0.8,"base_scale":0.0,"prompt":"SECRET-PROMPT","negative_prompt":null,"#,
            r#""seed":42,"steps":20,"guidance":3.5,"scheduler":"dpmpp_2m_karras","width":256,"#,
            r#""height":320,"image_count":1,"output_format":"png","init_strength":0.35,"#,
            r#""face_strength":0.4},"expire_time":"2027-01-15T08:00:00Z","#,
            r#""coefficient_sets":[0.25,0.75],"#,
            r#""uploads":[{"url":"https://s3/SECRET-LINK","content_type":"image/png"}],"#,
            r#""upload_expire":"2027-01-15T08:10:00Z","start_url":"https://s3/SECRET-START","alone":true}"#,
        ),
    );
}

#[test]
fn claims_of_renders_with_sliders() {
    let plain = grant();
    let spec = RenderSpec {
        base_scale: 0.5,
        best_of: 4,
        ..plain.spec.clone()
    };
    let grant = Grant {
        spec,
        coefficient_sets: vec![1.0],
        sliders: vec![0.75, -0.5],
        reference: FaceEmbedding::new(vec![0.0, 1.0]).ok(),
        ..plain
    };
    assert!(!format!("{grant:?}").contains("AAAAAAAAgD8="));
    frozen(
        &ClaimReply::Granted(Box::new(grant)),
        concat!(
            r#"{"v":1,"answer":"GRANTED","attempt":3,"lease_seconds":30,"spec":{"model":"pocket","#,
            r#""id_scale":0.8,"base_scale":0.5,"prompt":"SECRET-PROMPT","negative_prompt":null,"#,
            r#""seed":42,"steps":20,"guidance":3.5,"scheduler":"dpmpp_2m_karras","width":256,"#,
            r#""height":320,"image_count":1,"output_format":"png","best_of":4},"#,
            r#""expire_time":"2027-01-15T08:00:00Z","coefficient_sets":[1.0],"#,
            r#""uploads":[{"url":"https://s3/SECRET-LINK","content_type":"image/png"}],"#,
            r#""upload_expire":"2027-01-15T08:10:00Z","sliders":[0.75,-0.5],"#,
            r#""reference":"AAAAAAAAgD8="}"#,
        ),
    );
}

#[test]
fn a_damaged_reference_is_an_error_that_does_not_show_it() {
    let parcel = ClaimReply::Granted(Box::new(Grant {
        reference: FaceEmbedding::new(vec![0.0, 1.0]).ok(),
        ..grant()
    }))
    .encode()
    .unwrap();
    let json = std::str::from_utf8(&parcel.body).unwrap();
    for wrong in ["AAAAAAAAgEA=", "AAAA", "-"] {
        let damaged = json.replace("AAAAAAAAgD8=", wrong);
        assert_ne!(damaged, json);
        let error = ClaimReply::decode(&no_header, damaged.as_bytes()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("AAAA"), "{error}");
    }
}

#[test]
fn sets_are_numbered_without_gaps_and_the_identities_first() {
    let (identities, sliders) = (2, 2);
    let expected = [
        Set::Identity(0),
        Set::Identity(1),
        Set::Before(0),
        Set::After(0),
        Set::Before(1),
        Set::After(1),
        Set::Base(0),
        Set::Base(1),
    ];
    for (number, set) in (0..).zip(expected) {
        assert_eq!(set.number(identities, sliders), number);
        let read = Set::from_number(number, identities, sliders);
        assert_eq!(read, Some(set));
    }
    assert_eq!(Set::from_number(8, identities, sliders), None);
    assert_eq!(Set::from_number(0, 0, 0), None);
}

#[test]
fn renewals() {
    let renew = RenewRequest {
        render: render(),
        attempt: 3,
        worker: "w".to_owned(),
    };
    frozen(
        &renew,
        &format!(r#"{{"v":1,"render":"{ID}","attempt":3,"worker":"w"}}"#),
    );
    let held = RenewReply::Held {
        lease_seconds: 30,
        cancel: true,
    };
    frozen(
        &held,
        r#"{"v":1,"answer":"HELD","lease_seconds":30,"cancel":true}"#,
    );
    frozen(&RenewReply::Lost, r#"{"v":1,"answer":"LOST"}"#);
}

fn finish(outcome: WorkOutcome) -> FinishRequest {
    FinishRequest {
        render: render(),
        attempt: 3,
        worker: "w".to_owned(),
        outcome,
    }
}

fn finish_json(outcome: &str) -> String {
    format!(r#"{{"v":1,"render":"{ID}","attempt":3,"worker":"w","outcome":{outcome}}}"#)
}

#[test]
fn finishes() {
    let image = RenderedImage {
        format: ImageFormat::Png,
        width: 256,
        height: 320,
        size_bytes: 9,
        sha256: "ab".to_owned(),
        seed: 42,
        likeness: None,
    };
    let measured = RenderedImage {
        likeness: Some(0.5),
        ..image.clone()
    };
    let timings = RenderTimings {
        synthesis: 0.5,
        merge: 0.25,
        ..RenderTimings::default()
    };
    frozen(
        &finish(WorkOutcome::Succeeded {
            images: vec![image],
            timings,
        }),
        &finish_json(concat!(
            r#"{"kind":"SUCCEEDED","images":[{"format":"png","width":256,"height":320,"#,
            r#""size_bytes":9,"sha256":"ab","seed":42}],"timings":{"synthesis":0.5,"merge":0.25,"#,
            r#""sampling":0.0,"encoding":0.0,"upload":0.0}}"#,
        )),
    );
    frozen(
        &finish(WorkOutcome::Succeeded {
            images: vec![measured],
            timings,
        }),
        &finish_json(concat!(
            r#"{"kind":"SUCCEEDED","images":[{"format":"png","width":256,"height":320,"#,
            r#""size_bytes":9,"sha256":"ab","seed":42,"likeness":0.5}],"timings":{"synthesis":0.5,"#,
            r#""merge":0.25,"sampling":0.0,"encoding":0.0,"upload":0.0}}"#,
        )),
    );
    frozen(
        &finish(WorkOutcome::Cancelled),
        &finish_json(r#"{"kind":"CANCELLED"}"#),
    );
    frozen(
        &finish(WorkOutcome::HandedBack),
        &finish_json(r#"{"kind":"HANDED_BACK"}"#),
    );
    let failed = WorkOutcome::Failed {
        reason: "OUT_OF_MEMORY".to_owned(),
        message: "m".to_owned(),
        retryable: true,
    };
    frozen(
        &finish(failed),
        &finish_json(
            r#"{"kind":"FAILED","reason":"OUT_OF_MEMORY","message":"m","retryable":true}"#,
        ),
    );
}

#[test]
fn finish_replies() {
    let state = RenderState::Succeeded;
    for (reply, answer) in [
        (FinishReply::Applied { state }, "APPLIED"),
        (FinishReply::Repeated { state }, "REPEATED"),
        (FinishReply::Stale { state }, "STALE"),
    ] {
        frozen(
            &reply,
            &format!(r#"{{"v":1,"answer":"{answer}","state":"SUCCEEDED"}}"#),
        );
    }
}

#[test]
fn hellos() {
    let bundle = BundleSummary {
        digest: "d".to_owned(),
        name: "pocket".to_owned(),
        version: "1".to_owned(),
        encoder: "e".to_owned(),
        tokens: 80,
        k: 16,
        models: vec!["sdxl".to_owned()],
        defaults: RenderDefaults {
            scheduler: Scheduler::Lcm,
            steps: 20,
            guidance: 3.5,
            id_scale: 0.8,
            width: 256,
            height: 320,
        },
        base: false,
    };
    let hello = Hello {
        worker: "w".to_owned(),
        kind: WorkerKind::Render,
        pool: Some("pocket-cpu".parse().unwrap()),
        device: "CPU".to_owned(),
        device_class: "cpu".to_owned(),
        version: "0.1.0".to_owned(),
        started_at: DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
        draining: false,
        bundle: Some(bundle),
    };
    frozen(
        &hello,
        concat!(
            r#"{"v":1,"worker":"w","kind":"RENDER","pool":"pocket-cpu","device":"CPU","#,
            r#""device_class":"cpu","version":"0.1.0","started_at":"2027-01-15T08:00:00Z","#,
            r#""draining":false,"bundle":{"digest":"d","name":"pocket","version":"1","encoder":"e","#,
            r#""tokens":80,"k":16,"models":["sdxl"],"defaults":{"scheduler":"lcm","steps":20,"#,
            r#""guidance":3.5,"id_scale":0.8,"width":256,"height":320}}}"#,
        ),
    );
    let with_base = Hello {
        bundle: hello.bundle.clone().map(|bundle| BundleSummary {
            base: true,
            ..bundle
        }),
        ..hello
    };
    let parcel = with_base.encode().unwrap();
    let json = std::str::from_utf8(&parcel.body).unwrap();
    assert!(json.ends_with(r#""height":320},"base":true}}"#), "{json}");
    frozen(&HelloReply { drain: true }, r#"{"v":1,"drain":true}"#);
}

#[test]
fn events() {
    let progress = RenderProgress {
        image: 0,
        image_count: 2,
        step: 5,
        steps: 20,
    };
    let numbers = r#""progress":{"image":0,"image_count":2,"step":5,"steps":20}"#;
    let plain = Progress {
        attempt: 3,
        progress,
        preview: None,
    };
    frozen(&plain, &format!(r#"{{"v":1,"attempt":3,{numbers}}}"#));
    let preview = Preview {
        content_type: "image/jpeg".to_owned(),
        bytes: vec![1, 2, 3],
    };
    frozen(
        &Progress {
            preview: Some(preview),
            ..plain
        },
        &format!(
            r#"{{"v":1,"attempt":3,{numbers},"preview":{{"content_type":"image/jpeg","bytes":"AQID"}}}}"#
        ),
    );
    frozen(
        &RenderEvent {
            state: RenderState::Running,
        },
        r#"{"v":1,"state":"RUNNING"}"#,
    );
    frozen(&IdentityEvent {}, r#"{"v":1}"#);
    frozen(&CancelNotice {}, r#"{"v":1}"#);
    frozen(&Wake {}, r#"{"v":1}"#);
}

#[test]
fn service_errors() {
    let error = ServiceError {
        reason: "BUSY".to_owned(),
        message: "m".to_owned(),
        retryable: true,
    };
    frozen(
        &error,
        r#"{"v":1,"reason":"BUSY","message":"m","retryable":true}"#,
    );
}

fn coefficients() -> Coefficients {
    Coefficients::new(2, 2, vec![0.5, -1.0, 0.25, 0.0]).unwrap()
}

#[test]
fn coefficients_are_binary() {
    let request = CoefficientsRequest {
        render: render(),
        attempt: 3,
        set: 1,
    };
    frozen(
        &request,
        &format!(r#"{{"v":1,"render":"{ID}","attempt":3,"set":1}}"#),
    );
    let reply = CoefficientsReply::Set(coefficients());
    let parcel = reply.encode().unwrap();
    assert_eq!(
        parcel.body.as_ref(),
        [0x00, 0x38, 0x00, 0xBC, 0x00, 0x34, 0x00, 0x00]
    );
    let headers: Vec<_> = parcel
        .headers
        .iter()
        .map(|(k, v)| (*k, v.as_str()))
        .collect();
    let expected = [
        ("Likeness-K", "2"),
        ("Likeness-Tokens", "2"),
        ("Likeness-Version", "1"),
    ];
    assert_eq!(headers, expected);
    let read = CoefficientsReply::decode(&|name| parcel.headers.get(name).cloned(), &parcel.body);
    assert_eq!(read.unwrap(), reply);
    let refused = CoefficientsReply::Refused {
        reason: Refusal::StaleAttempt,
    };
    frozen(&refused, r#"{"v":1,"reason":"STALE_ATTEMPT"}"#);
}

#[test]
fn damaged_coefficients_are_errors() {
    let parcel = CoefficientsReply::Set(coefficients()).encode().unwrap();
    let read = |change: (&'static str, &str), body: &[u8]| {
        let header = |name| match name {
            name if name == change.0 => Some(change.1.to_owned()),
            name => parcel.headers.get(name).cloned(),
        };
        CoefficientsReply::decode(&header, body).unwrap_err()
    };
    let newer = read(("Likeness-Version", "2"), &parcel.body);
    assert_eq!(newer, CodecError::NewerVersion { found: 2 });
    for (change, body) in [
        (("Likeness-Tokens", "3"), &parcel.body[..]),
        (("Likeness-Tokens", "4000000000"), &parcel.body[..]),
        (("Likeness-K", "x"), &parcel.body[..]),
        (("Likeness-K", "2"), &parcel.body[..7]),
        (("Likeness-K", "2"), &[0xFF; 8][..]),
    ] {
        assert!(
            matches!(read(change, body), CodecError::Binary { .. }),
            "{change:?}"
        );
    }
}

#[test]
fn another_version_is_told_from_damage() {
    let decode = |json: &str| RenewReply::decode(&no_header, json.as_bytes()).unwrap_err();
    let newer = decode(r#"{"v":2,"answer":"SOMETHING_NEW"}"#);
    assert_eq!(newer, CodecError::NewerVersion { found: 2 });
    assert_eq!(decode(r#"{"v":0,"answer":"LOST"}"#), CodecError::NoVersion);
    for bad in [
        "",
        "{",
        "[]",
        "null",
        "{}",
        r#"{"v":1}"#,
        r#"{"v":-1}"#,
        r#"{"v":1,"answer":"X"}"#,
    ] {
        assert!(matches!(decode(bad), CodecError::Json { .. }), "{bad}");
    }
    let unknown = r#"{"v":1,"answer":"REFUSED","reason":"ADDED_LATER"}"#;
    let refused = ClaimReply::Refused {
        reason: Refusal::Other,
    };
    assert_eq!(
        ClaimReply::decode(&no_header, unknown.as_bytes()),
        Ok(refused)
    );
}

#[test]
fn nothing_secret_shows_in_debug_or_errors() {
    let debug = format!(
        "{:?} {:?}",
        ClaimReply::Granted(Box::new(grant())),
        coefficients()
    );
    assert!(!debug.contains("SECRET"), "{debug}");
    let wrong = r#"{"v":1,"render":"SECRET-TEXT","publication":1}"#;
    let error = RenderPrompt::decode(&no_header, wrong.as_bytes()).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("SECRET"), "{error}");
}
