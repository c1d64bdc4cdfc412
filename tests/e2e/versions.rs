//! A worker of the version before at this version's dispatcher, letter by letter as it writes and reads.
//!
//! The texts are those of `crates/queue/src/messages/frozen.rs`, with the ids of this test. They must never change.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use likeness_api::Server;
use likeness_dispatch::Dispatch;
use likeness_queue::{PoolName, Queue};
use likeness_runtime::Lifecycle;
use likeness_test_support::TestContext;
use likeness_wire::v1;
use serde_json::{Value, json};

use crate::stage::{App, PATIENCE, Settings, eventually, tenant};

const DIGEST: &str = "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f";
const POOL: &str = "0f0f0f0f0f0f-cpu";

/// A dispatcher and a front of this version; the worker is this test.
struct World {
    context: TestContext,
    queue: Queue,
    app: App,
    lifecycle: Lifecycle,
}

impl Drop for World {
    fn drop(&mut self) {
        self.lifecycle.stop();
        self.lifecycle.hard().cancel();
    }
}

impl World {
    async fn start() -> Result<Self> {
        let context = TestContext::new().await?;
        let settings = Settings::of(&context);
        let lifecycle = Lifecycle::new();
        let dispatch = Dispatch::from_args(settings.dispatch()).await?;
        dispatch.spawn(&lifecycle);
        let server = Server::from_args(settings.api()).await?;
        let endpoint = format!("http://{}", server.address());
        server.spawn(&lifecycle);
        let queue = Queue::connect(&settings.queue).await?;
        queue.ensure_streams().await?;
        Ok(Self {
            context,
            queue,
            app: tenant(&endpoint, "photo app").await?,
            lifecycle,
        })
    }

    /// What a request written so is answered.
    async fn ask(&self, subject: &str, request: String) -> Result<Value> {
        let answer = eventually(async || {
            let asked = self.context.nats();
            let asked = asked.request(subject.to_owned(), request.clone().into());
            Ok(asked.await.ok())
        });
        Ok(serde_json::from_slice(&answer.await?.payload)?)
    }

    async fn say_hello(&self) -> Result<()> {
        let hello = format!(
            concat!(
                r#"{{"v":1,"worker":"w","kind":"RENDER","pool":"{pool}","device":"CPU","#,
                r#""device_class":"cpu","version":"0.1.0","started_at":"2027-01-15T08:00:00Z","#,
                r#""draining":false,"bundle":{{"digest":"{digest}","name":"pocket","version":"1","#,
                r#""encoder":"{digest}","tokens":80,"k":16,"models":["sdxl"],"#,
                r#""defaults":{{"scheduler":"lcm","steps":20,"guidance":3.5,"id_scale":0.8,"#,
                r#""width":256,"height":320}}}}}}"#,
            ),
            pool = POOL,
            digest = DIGEST,
        );
        let subjects = self.queue.subjects();
        let answer = self.ask(subjects.hello().subject(), hello).await?;
        reads(&answer, &json!({"v":1,"drain":true}));
        Ok(())
    }

    /// A new render, and what its prompt says.
    async fn prompt(&mut self) -> Result<(v1::Render, String, u64)> {
        // Whatever is published, as it is on its way.
        let everything = format!("{}.>", self.context.namespace());
        let mut published = self.context.nats().subscribe(everything).await?;
        self.context.nats().flush().await?;
        let render = self.app.create(v1::Render {
            prompt: "a portrait".to_owned(),
            seed: Some(7),
            ..Default::default()
        });
        let render = render.await?;
        let pool: PoolName = POOL.parse()?;
        let mut prompts = self.queue.render_prompts(&pool);
        let prompt = prompts.next(Duration::from_mins(1)).await?;
        let prompt = prompt.context("no prompt came")?;
        let publication = u64::from(prompt.message().publication);
        prompt.ack().await?;
        let id = render.name.rsplit('/').next().context("no id")?;
        let old = json!({"v":1,"render":id,"publication":publication});
        let told = async {
            while let Some(message) = published.next().await {
                let read = serde_json::from_slice(&message.payload).unwrap_or(Value::Null);
                if read["render"] == id && read["publication"] == publication {
                    return Some(read);
                }
            }
            None
        };
        let told = tokio::time::timeout(PATIENCE, told).await?;
        reads(&told.context("no prompt was seen")?, &old);
        let id = id.to_owned();
        Ok((render, id, publication))
    }

    /// A claim of it, and the attempt that was granted.
    async fn claim(&self, id: &str, publication: u64) -> Result<u64> {
        let claim =
            format!(r#"{{"v":1,"render":"{id}","publication":{publication},"worker":"w"}}"#);
        let subject = self.queue.subjects().claim();
        let answer = self.ask(subject.subject(), claim).await?;
        assert_eq!(answer["answer"], "GRANTED", "{}", answer["answer"]);
        reads(&answer, &granted());
        answer["attempt"].as_u64().context("no attempt")
    }

    async fn renew(&self, id: &str, attempt: u64) -> Result<Value> {
        let renew = format!(r#"{{"v":1,"render":"{id}","attempt":{attempt},"worker":"w"}}"#);
        let subject = self.queue.subjects().renew();
        self.ask(subject.subject(), renew).await
    }

    async fn finish(&self, id: &str, attempt: u64, outcome: &str) -> Result<Value> {
        let finish = format!(
            r#"{{"v":1,"render":"{id}","attempt":{attempt},"worker":"w","outcome":{outcome}}}"#
        );
        let subject = self.queue.subjects().finish();
        self.ask(subject.subject(), finish).await
    }
}

/// A grant as the version before reads it.
fn granted() -> Value {
    json!({
        "v":1,"answer":"GRANTED","attempt":3,"lease_seconds":30,
        "spec":{"model":"pocket","id_scale":0.8,"base_scale":0.0,"prompt":"","negative_prompt":null,
            "seed":42,"steps":20,"guidance":3.5,"scheduler":"dpmpp_2m_karras","width":256,"height":320,
            "image_count":1,"output_format":"png"},
        "expire_time":"2027-01-15T08:00:00Z","coefficient_sets":[],
        "uploads":[{"url":"https://s3/link","content_type":"image/png"}],
        "upload_expire":"2027-01-15T08:10:00Z"
    })
}

const SUCCEEDED: &str = concat!(
    r#"{"kind":"SUCCEEDED","images":[{"format":"png","width":256,"height":320,"size_bytes":9,"#,
    r#""sha256":"0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f","seed":7}],"#,
    r#""timings":{"synthesis":0.5,"merge":0.25,"sampling":0.0,"encoding":0.0,"upload":0.0}}"#,
);

/// Whether all that the old form has is there and of the same kind; it passes over what it does not know.
#[track_caller]
fn reads(answer: &Value, old: &Value) {
    match (answer, old) {
        (Value::Object(answer), Value::Object(old)) => {
            for (name, old) in old {
                let field = answer.get(name);
                assert!(field.is_some(), "{name} is missing: {answer:?}");
                if let Some(field) = field {
                    reads(field, old);
                }
            }
        }
        (Value::Array(answer), Value::Array(old)) => {
            for (answer, old) in answer.iter().zip(old) {
                reads(answer, old);
            }
        }
        _ => assert_eq!(
            std::mem::discriminant(answer),
            std::mem::discriminant(old),
            "another kind of value"
        ),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_the_version_before_renders() -> Result<()> {
    let mut world = World::start().await?;
    world.say_hello().await?;
    let (render, id, publication) = world.prompt().await?;
    let attempt = world.claim(&id, publication).await?;

    let held = world.renew(&id, attempt).await?;
    reads(
        &held,
        &json!({"v":1,"answer":"HELD","lease_seconds":30,"cancel":true}),
    );
    assert_eq!(held["cancel"], false);
    let lost = world.renew(&id, attempt + 1).await?;
    assert_eq!(lost["answer"], "LOST");

    for answer in ["APPLIED", "REPEATED"] {
        let finished = world.finish(&id, attempt, SUCCEEDED).await?;
        reads(
            &finished,
            &json!({"v":1,"answer":"APPLIED","state":"SUCCEEDED"}),
        );
        assert_eq!(
            (&finished["answer"], &finished["state"]),
            (&json!(answer), &json!("SUCCEEDED"))
        );
    }
    let render = world.app.get(&render.name).await?;
    assert_eq!(render.state(), v1::RenderState::Succeeded);
    assert_eq!(render.images.len(), 1);

    // Its claim of what is over is refused in a form that it reads.
    let claim = format!(r#"{{"v":1,"render":"{id}","publication":{publication},"worker":"w"}}"#);
    let subject = world.queue.subjects().claim();
    let refused = world.ask(subject.subject(), claim).await?;
    reads(
        &refused,
        &json!({"v":1,"answer":"REFUSED","reason":"STALE_PUBLICATION"}),
    );
    assert_eq!(refused["answer"], "REFUSED");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_the_version_before_hears_of_a_cancel_and_hands_back() -> Result<()> {
    let mut world = World::start().await?;
    world.say_hello().await?;
    let (render, id, publication) = world.prompt().await?;
    let attempt = world.claim(&id, publication).await?;
    let back = world
        .finish(&id, attempt, r#"{"kind":"HANDED_BACK"}"#)
        .await?;
    assert_eq!(
        (&back["answer"], &back["state"]),
        (&json!("APPLIED"), &json!("QUEUED"))
    );

    let pool: PoolName = POOL.parse()?;
    let mut prompts = world.queue.render_prompts(&pool);
    let prompt = prompts.next(Duration::from_mins(1)).await?;
    let prompt = prompt.context("it was not published again")?;
    let attempt = world
        .claim(&id, prompt.message().publication.into())
        .await?;
    world.app.cancel(&render.name).await?;
    assert_eq!(world.renew(&id, attempt).await?["cancel"], true);
    let ended = world
        .finish(&id, attempt, r#"{"kind":"CANCELLED"}"#)
        .await?;
    assert_eq!(
        (&ended["answer"], &ended["state"]),
        (&json!("APPLIED"), &json!("CANCELLED"))
    );
    Ok(())
}
