//! Photo apps that submit renders, cancel and watch some, and remember what they were told.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use likeness_domain::{Clock as _, SystemClock};
use likeness_wire::v1::{
    self, admin_service_client::AdminServiceClient, identity_service_client::IdentityServiceClient,
    render_service_client::RenderServiceClient, watch_render_response::Event,
};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use crate::fleet::OPERATOR_KEY;

/// How long one call may take.
const CALL: Duration = Duration::from_secs(3);
pub const PAUSE: Duration = Duration::from_millis(50);
const TENANTS: usize = 5;

/// Adds a key to each call.
#[derive(Clone)]
pub struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert("authorization", self.0.clone());
        Ok(request)
    }
}

pub type Keyed = InterceptedService<Channel, Bearer>;

/// A tenant's clients, one for each front.
#[derive(Clone)]
pub struct Tenant {
    /// `tenants/{tenant}`.
    pub name: String,
    fronts: Vec<RenderServiceClient<Keyed>>,
    /// The same fronts for identities and their photos.
    pub albums: Vec<IdentityServiceClient<Keyed>>,
}

/// What a client wants, all of it decided by the seed of the run.
#[derive(Clone, Debug)]
pub struct Wish {
    pub tenant: usize,
    /// No two renders of a run have the same.
    pub seed: i64,
    pub steps: i32,
    pub priority: v1::RenderPriority,
    pub cancel_after: Option<Duration>,
    pub expires_after: Option<Duration>,
    pub watch: bool,
}

/// What it was told.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The names of all OK answers to the one request; several are a fault.
    pub created: Vec<String>,
    /// The state by which a cancel was answered.
    pub cancelled: Option<v1::RenderState>,
    /// The last state that a watch told.
    pub watched: Option<v1::RenderState>,
}

/// What all clients wanted and were told, by seed.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<BTreeMap<i64, (Wish, Told)>>>);

impl Memory {
    fn note(&self, wish: &Wish, note: impl FnOnce(&mut Told)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = all.entry(wish.seed);
        note(&mut entry.or_insert_with(|| (wish.clone(), Told::default())).1);
    }

    pub fn all(&self) -> Vec<(Wish, Told)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().cloned().collect()
    }
}

/// Wishes of one run: most are quick, one in fifty takes a third of a second, one in five hundred more than a lease.
pub fn wishes(count: usize, random: &mut ChaCha8Rng) -> Vec<Wish> {
    let priorities = [
        v1::RenderPriority::Interactive,
        v1::RenderPriority::Normal,
        v1::RenderPriority::Bulk,
    ];
    (0..count)
        .map(|number| Wish {
            tenant: random.random_range(0..TENANTS),
            // Apart by more than a render's images.
            seed: number as i64 * 100,
            steps: match number % 500 {
                250 => 150,
                rest if rest % 50 == 7 => 14,
                _ => 1,
            },
            priority: priorities[random.random_range(0..priorities.len())],
            cancel_after: random
                .random_bool(0.05)
                .then(|| Duration::from_millis(random.random_range(0..2000))),
            expires_after: random
                .random_bool(0.02)
                .then(|| Duration::from_millis(random.random_range(500..4000))),
            watch: random.random_bool(0.02),
        })
        .collect()
}

/// New tenants, made as soon as the fronts answer.
pub async fn tenants(apis: &[SocketAddr]) -> Result<Vec<Tenant>> {
    let mut admin = AdminServiceClient::new(keyed(apis[0], OPERATOR_KEY)?);
    let mut tenants = Vec::new();
    for number in 0..TENANTS {
        let tenant = v1::Tenant {
            display_name: format!("app {number}"),
            ..Default::default()
        };
        let request = v1::CreateTenantRequest {
            tenant: Some(tenant),
            request_id: format!("tenant-{number}"),
        };
        let name = loop {
            match admin.create_tenant(request.clone()).await {
                Ok(reply) => break reply.into_inner().tenant.context("no tenant")?.name,
                Err(status) if is_transient(&status) => tokio::time::sleep(PAUSE).await,
                Err(status) => return Err(status.into()),
            }
        };
        let request = v1::CreateApiKeyRequest {
            parent: name.clone(),
            api_key: None,
        };
        let key = admin.create_api_key(request).await?.into_inner().secret;
        let fronts = apis
            .iter()
            .map(|api| Ok(RenderServiceClient::new(keyed(*api, &key)?)));
        let albums = apis
            .iter()
            .map(|api| Ok(IdentityServiceClient::new(keyed(*api, &key)?)));
        tenants.push(Tenant {
            name,
            albums: albums.collect::<Result<_>>()?,
            fronts: fronts.collect::<Result<_>>()?,
        });
    }
    Ok(tenants)
}

fn keyed(api: SocketAddr, key: &str) -> Result<Keyed> {
    let bearer: MetadataValue<Ascii> = format!("Bearer {key}").parse()?;
    let endpoint = Endpoint::from_shared(format!("http://{api}"))?;
    let channel = endpoint
        .connect_timeout(Duration::from_secs(1))
        .connect_lazy();
    Ok(InterceptedService::new(channel, Bearer(bearer)))
}

/// Whether to ask again. FAILED_PRECONDITION: no worker has announced itself yet.
pub fn is_transient(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Internal
            | Code::Unknown
            | Code::Aborted
            | Code::Cancelled
            | Code::ResourceExhausted
            | Code::FailedPrecondition
    )
}

impl Tenant {
    /// Submits a wish until it is answered, then cancels or watches where it says so.
    pub async fn live(&self, wish: Wish, memory: &Memory) -> Result<()> {
        let Some(name) = self.submit(&wish, memory).await? else {
            return Ok(());
        };
        if wish.watch {
            let (tenant, wish, memory, name) =
                (self.clone(), wish.clone(), memory.clone(), name.clone());
            tokio::spawn(async move {
                let last = tenant.watch(wish.seed, &name).await;
                memory.note(&wish, |told| told.watched = Some(last));
            });
        }
        if let Some(after) = wish.cancel_after {
            let (tenant, memory) = (self.clone(), memory.clone());
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                if let Some(state) = tenant.cancel(wish.seed, &name).await {
                    memory.note(&wish, |told| told.cancelled = Some(state));
                }
            });
        }
        Ok(())
    }

    /// The same request at one front after the other, until one says OK.
    async fn submit(&self, wish: &Wish, memory: &Memory) -> Result<Option<String>> {
        let expire = wish
            .expires_after
            .map(|after| SystemTime::from(SystemClock.now()) + after);
        let render = v1::Render {
            prompt: "a portrait".to_owned(),
            seed: Some(wish.seed),
            steps: Some(wish.steps),
            priority: wish.priority.into(),
            expire_time: expire.map(Into::into),
            ..Default::default()
        };
        let request = v1::CreateRenderRequest {
            render: Some(render),
            request_id: format!("wish-{}", wish.seed),
            ..Default::default()
        };
        let mut fronts = self.fronts_from(wish.seed);
        loop {
            let front = fronts.next().context("no front")?;
            match timely(front.clone().create_render(request.clone())).await {
                Ok(reply) => {
                    let name = reply.render.context("no render")?.name;
                    memory.note(wish, |told| told.created.push(name.clone()));
                    return Ok(Some(name));
                }
                Err(status) if is_transient(&status) => tokio::time::sleep(PAUSE).await,
                // Its time was over before it was taken in: nothing was promised.
                Err(_) if expire.is_some() => return Ok(None),
                Err(status) => return Err(status.into()),
            }
        }
    }

    async fn cancel(&self, seed: i64, name: &str) -> Option<v1::RenderState> {
        for front in self.fronts_from(seed).take(200) {
            let request = v1::CancelRenderRequest {
                name: name.to_owned(),
            };
            match timely(front.clone().cancel_render(request)).await {
                Ok(reply) => return reply.render.map(|render| render.state()),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
        None
    }

    /// Watches until a last state is told, by way of one front after the other.
    async fn watch(&self, seed: i64, name: &str) -> v1::RenderState {
        let mut fronts = self.fronts_from(seed);
        loop {
            let request = v1::WatchRenderRequest {
                name: name.to_owned(),
                without_previews: true,
            };
            let front = fronts.next().cloned();
            if let Some(mut front) = front
                && let Ok(Ok(events)) =
                    tokio::time::timeout(CALL, front.watch_render(request)).await
            {
                let mut events = events.into_inner();
                // A front that hangs says nothing: ask another now and then.
                while let Ok(Some(Ok(event))) = tokio::time::timeout(2 * CALL, events.next()).await
                {
                    if let Some(Event::Render(render)) = event.event
                        && is_over(render.state())
                    {
                        return render.state();
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whether another tenant's render is hidden from this one.
    pub async fn is_kept_from(&self, name: &str) -> Result<bool> {
        let request = v1::GetRenderRequest {
            name: name.to_owned(),
        };
        let asked = timely(self.fronts[0].clone().get_render(request)).await;
        match asked {
            Ok(_) => Ok(false),
            Err(status) if status.code() == Code::NotFound => Ok(true),
            Err(status) if status.code() == Code::PermissionDenied => Ok(true),
            Err(status) => Err(status.into()),
        }
    }

    fn fronts_from(&self, seed: i64) -> impl Iterator<Item = &RenderServiceClient<Keyed>> {
        let first = (seed / 100) as usize % self.fronts.len();
        self.fronts.iter().cycle().skip(first)
    }
}

pub async fn timely<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout_at(Instant::now() + CALL, call).await {
        Ok(reply) => reply.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

pub fn is_over(state: v1::RenderState) -> bool {
    let living = [
        v1::RenderState::Queued,
        v1::RenderState::Dispatched,
        v1::RenderState::Running,
    ];
    !living.contains(&state)
}
