//! Webhooks: tells whoever asked for it that a render is over, by an HTTP call that is signed as standardwebhooks.com
//! has it. Every instance calls; what is due, and whose turn it is, is in Postgres.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, TimeDelta, Utc};
use likeness_domain::{
    Error, RenderState,
    names::ApiKeyName,
    webhook::{Reach, check_url},
};
use likeness_registry::{
    acquire,
    renders::{self, DueWebhook},
};
use likeness_runtime::Lifecycle;
use reqwest::{
    Client,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use ring::hmac;
use serde::Serialize;

use crate::server::Dispatch;

/// Between two looks at what is due.
const ROUND: Duration = Duration::from_millis(500);
/// Calls at once, of all tenants and of one: a tenant whose server hangs must not hold the others up.
const MOST: i64 = 64;
const MOST_OF_A_TENANT: i64 = 8;
/// How long a call may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// When a call counts as lost whose outcome was not noted: an instance that died while calling.
const LEASE: TimeDelta = TimeDelta::seconds(60);

/// Calls webhooks and nothing else: no redirects, no proxy, and only addresses within reach, whatever a name stands for.
#[derive(Clone)]
pub struct Caller {
    client: Client,
    reach: Reach,
}

impl Caller {
    /// A caller within this reach.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(reach: Reach) -> anyhow::Result<Self> {
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .timeout(TIMEOUT)
            .user_agent(concat!("likeness/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Arc::new(Within(reach)))
            .build()?;
        Ok(Self { client, reach })
    }
}

/// Resolves names to those of their addresses that are within reach. The connection goes to what this returns, so that
/// no second answer of the name's server can lead elsewhere.
struct Within(Reach);

impl Resolve for Within {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let within: Vec<SocketAddr> = found.filter(|one| reach.covers(one.ip())).collect();
            if within.is_empty() {
                return Err("the name stands for no public address".into());
            }
            Ok(Box::new(within.into_iter()) as Addrs)
        })
    }
}

/// Calls what is due until the lifecycle's soft stop.
pub fn spawn(dispatch: &Dispatch, lifecycle: &Lifecycle) {
    let (dispatch, soft) = (dispatch.clone(), lifecycle.soft().clone());
    lifecycle.spawn("webhooks", async move {
        while soft
            .run_until_cancelled(tokio::time::sleep(ROUND))
            .await
            .is_some()
        {
            if let Err(error) = call_due(&dispatch).await {
                tracing::warn!(?error, "webhooks were not called");
            }
        }
        Ok(())
    });
}

async fn call_due(dispatch: &Dispatch) -> Result<(), Error> {
    let now = dispatch.clock.now();
    let mut tx = dispatch.begin().await?;
    let due = renders::take_due(&mut tx, MOST_OF_A_TENANT, MOST, LEASE, now).await?;
    dispatch.commit(tx).await?;
    let calls = due.iter().map(|webhook| call(dispatch, webhook));
    for noted in futures::future::join_all(calls).await {
        noted?;
    }
    Ok(())
}

/// Calls one webhook and notes how it answered; 0 is no answer.
async fn call(dispatch: &Dispatch, webhook: &DueWebhook) -> Result<(), Error> {
    let status = send(&dispatch.caller, webhook, dispatch.clock.now()).await;
    let now = dispatch.clock.now();
    let done = (200..300).contains(&status);
    let wait = dispatch.policy.webhook.wait(webhook.number);
    let next = wait.filter(|_| !done).map(|wait| now + wait);
    let render = webhook.render.render;
    tracing::info!(%render, number = webhook.number, status, "webhook called");
    let mut conn = acquire(&dispatch.pool).await?;
    renders::delivered(&mut conn, render, webhook.number, status, next, now).await
}

/// What a webhook is told.
#[derive(Serialize)]
struct Payload {
    r#type: &'static str,
    timestamp: DateTime<Utc>,
    data: Data,
}

#[derive(Serialize)]
struct Data {
    render: String,
    state: RenderState,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

async fn send(caller: &Caller, webhook: &DueWebhook, now: DateTime<Utc>) -> i16 {
    // Checked when the render was taken in; what may be reached may be another since.
    let Ok(url) = check_url(&webhook.url, caller.reach) else {
        return 0;
    };
    let Ok(body) = serde_json::to_vec(&payload(webhook)) else {
        return 0;
    };
    let (id, timestamp) = (webhook.render.render.to_string(), now.timestamp());
    let key = ApiKeyName {
        tenant: webhook.render.tenant,
        key: webhook.key,
    };
    let sent = caller
        .client
        .post(url)
        .header("content-type", "application/json")
        .header("webhook-id", &id)
        .header("webhook-timestamp", timestamp.to_string())
        .header(
            "webhook-signature",
            signature(&webhook.key_sha256, &id, timestamp, &body),
        )
        .header("likeness-key", key.to_string())
        .body(body)
        .send()
        .await;
    match sent {
        Ok(answer) => i16::try_from(answer.status().as_u16()).unwrap_or(0),
        Err(error) => {
            // Without the URL: it may hold a secret of the tenant's.
            tracing::debug!(error = %error.without_url(), "a webhook did not answer");
            0
        }
    }
}

fn payload(webhook: &DueWebhook) -> Payload {
    Payload {
        r#type: "render.finished",
        timestamp: webhook.finished_at,
        data: Data {
            render: webhook.render.to_string(),
            state: webhook.state,
            reason: webhook.error.as_ref().map(|error| error.reason.clone()),
        },
    }
}

/// HMAC-SHA256 over id, timestamp and body. Its key is the SHA-256 of the API key's secret: the tenant can compute it, and
/// the secret itself is stored nowhere.
fn signature(key: &[u8], id: &str, timestamp: i64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    context.update(format!("{id}.{timestamp}.").as_bytes());
    context.update(body);
    format!("v1,{}", STANDARD.encode(context.sign()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_one_of_the_standard() {
        // The example of the specification's reference libraries.
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        assert_eq!(
            signature(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[tokio::test]
    async fn a_name_that_stands_for_a_private_address_is_not_called() {
        let caller = Caller::new(Reach::Public).unwrap();
        let refused = caller.client.post("https://localhost:9/").send().await;
        let error = format!("{:?}", refused.unwrap_err());
        assert!(error.contains("no public address"), "{error}");
    }
}
