-- Bundles, pools, workers, renders and their attempts, and who leads admission.

CREATE TABLE bundles (
    digest text PRIMARY KEY CHECK (digest ~ '^[0-9a-f]{64}$'),
    encoder text NOT NULL CHECK (encoder ~ '^[0-9a-f]{64}$'),
    -- The summary as its workers announced it.
    summary jsonb NOT NULL,
    announced_at timestamptz NOT NULL
);
CREATE INDEX bundles_latest ON bundles (announced_at DESC);

CREATE TABLE pools (
    name text PRIMARY KEY,
    bundle text NOT NULL REFERENCES bundles,
    device_class text NOT NULL,
    paused boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL
);
CREATE INDEX pools_bundle ON pools (bundle);

CREATE TABLE workers (
    id text PRIMARY KEY CHECK (octet_length(id) BETWEEN 1 AND 100),
    kind text NOT NULL CHECK (kind IN ('RENDER', 'ENROLL')),
    pool text REFERENCES pools,
    device text NOT NULL,
    version text NOT NULL,
    draining boolean NOT NULL DEFAULT false,
    started_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    CHECK ((kind = 'RENDER') = (pool IS NOT NULL))
);
CREATE INDEX workers_pool ON workers (pool, seen_at);

CREATE TABLE renders (
    id uuid PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    state text NOT NULL DEFAULT 'QUEUED' CHECK (state IN (
        'QUEUED', 'DISPATCHED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED', 'EXPIRED')),
    -- 0 interactive, 1 normal, 2 bulk.
    priority smallint NOT NULL CHECK (priority BETWEEN 0 AND 2),
    bundle text NOT NULL REFERENCES bundles,
    pool text NOT NULL REFERENCES pools,
    -- The parameters with every default filled in.
    spec jsonb NOT NULL,
    labels jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(labels) = 'object'),
    -- Estimated seconds of a worker's time.
    cost_seconds real NOT NULL CHECK (cost_seconds > 0),
    retry_of uuid,

    -- The publication that a claim must name; raised by each publishing into JetStream.
    publication integer NOT NULL DEFAULT 0 CHECK (publication >= 0),
    -- When JetStream confirmed the present publication.
    published_at timestamptz,
    dispatched_at timestamptz,
    -- The fencing token; raised by each claim.
    attempt integer NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    worker text,
    lease_until timestamptz,
    begun_at timestamptz,
    -- Attempts that count against the limit: failures and lost leases, not hand-backs.
    failures integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
    run_after timestamptz,
    expire_time timestamptz NOT NULL,
    cancel_requested_at timestamptz,

    error_reason text,
    error_message text,
    timings jsonb,
    created_at timestamptz NOT NULL,
    finished_at timestamptz,

    CHECK ((state = 'RUNNING') = (worker IS NOT NULL)),
    CHECK ((state = 'RUNNING') = (lease_until IS NOT NULL)),
    CHECK ((state IN ('SUCCEEDED', 'FAILED', 'CANCELLED', 'EXPIRED')) = (finished_at IS NOT NULL)),
    CHECK ((state = 'FAILED') = (error_reason IS NOT NULL)),
    CHECK ((error_reason IS NULL) = (error_message IS NULL)),
    CHECK (state <> 'DISPATCHED' OR (publication > 0 AND dispatched_at IS NOT NULL)),
    CHECK (state NOT IN ('RUNNING', 'SUCCEEDED') OR (attempt > 0 AND begun_at IS NOT NULL)),
    CHECK ((state = 'SUCCEEDED') = (timings IS NOT NULL)),
    CHECK (cancel_requested_at IS NULL OR state IN ('RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED', 'EXPIRED'))
);
CREATE INDEX renders_queued ON renders (pool, tenant_id, priority, id) WHERE state = 'QUEUED';
CREATE INDEX renders_window ON renders (pool, dispatched_at) WHERE state IN ('DISPATCHED', 'RUNNING');
CREATE INDEX renders_lease ON renders (lease_until) WHERE state = 'RUNNING';
CREATE INDEX renders_expiry ON renders (expire_time) WHERE state IN ('QUEUED', 'DISPATCHED', 'RUNNING');
CREATE INDEX renders_tenant ON renders (tenant_id, id DESC);
CREATE INDEX renders_labels ON renders USING gin (labels jsonb_path_ops);

-- Who a render shows, with the photos whose coefficients it is pinned to.
CREATE TABLE render_identities (
    render_id uuid NOT NULL REFERENCES renders ON DELETE CASCADE,
    position smallint NOT NULL CHECK (position >= 0),
    identity_id uuid NOT NULL,
    weight real NOT NULL CHECK (weight >= 0 AND weight <= 1),
    photo_ids uuid[] NOT NULL CHECK (cardinality(photo_ids) > 0),
    PRIMARY KEY (render_id, position)
);
CREATE INDEX render_identities_identity ON render_identities (identity_id);

CREATE TABLE render_attempts (
    render_id uuid NOT NULL REFERENCES renders ON DELETE CASCADE,
    attempt integer NOT NULL CHECK (attempt > 0),
    publication integer NOT NULL CHECK (publication > 0),
    worker text NOT NULL,
    begun_at timestamptz NOT NULL,
    finished_at timestamptz,
    outcome text CHECK (outcome IN ('SUCCEEDED', 'FAILED', 'CANCELLED', 'LOST', 'HANDED_BACK', 'EXPIRED')),
    -- What the render became by it: a repeated report gets the same answer.
    became text CHECK (became IN ('QUEUED', 'SUCCEEDED', 'FAILED', 'CANCELLED', 'EXPIRED')),
    error_reason text,
    error_message text,
    PRIMARY KEY (render_id, attempt),
    CHECK ((outcome IS NULL) = (finished_at IS NULL)),
    CHECK ((outcome IS NULL) = (became IS NULL))
);

-- The winning attempt's images.
CREATE TABLE render_images (
    render_id uuid NOT NULL REFERENCES renders ON DELETE CASCADE,
    position smallint NOT NULL CHECK (position >= 0),
    attempt integer NOT NULL CHECK (attempt > 0),
    format text NOT NULL CHECK (format IN ('png', 'jpeg', 'webp')),
    width integer NOT NULL CHECK (width > 0),
    height integer NOT NULL CHECK (height > 0),
    size_bytes bigint NOT NULL CHECK (size_bytes > 0),
    sha256 text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    seed bigint NOT NULL CHECK (seed >= 0),
    PRIMARY KEY (render_id, position)
);

-- Who leads: one row a role. Whoever raises the epoch leads until the lease ends.
CREATE TABLE leaders (
    role text PRIMARY KEY,
    epoch bigint NOT NULL CHECK (epoch > 0),
    holder text NOT NULL,
    lease_until timestamptz NOT NULL
);

-- The transitions of `likeness_domain::states`, so that no statement anywhere can take another way.
CREATE FUNCTION render_may_become(old_state text, new_state text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE old_state
        WHEN 'QUEUED' THEN new_state IN ('DISPATCHED', 'FAILED', 'CANCELLED', 'EXPIRED')
        WHEN 'DISPATCHED' THEN new_state IN ('QUEUED', 'RUNNING', 'FAILED', 'CANCELLED', 'EXPIRED')
        WHEN 'RUNNING' THEN new_state IN ('QUEUED', 'SUCCEEDED', 'FAILED', 'CANCELLED', 'EXPIRED')
        ELSE false
    END
$$;

CREATE FUNCTION photo_may_become(old_state text, new_state text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE old_state
        WHEN 'PENDING' THEN new_state IN ('RUNNING', 'FAILED')
        WHEN 'RUNNING' THEN new_state IN ('PENDING', 'ACCEPTED', 'REJECTED', 'FAILED')
        ELSE false
    END
$$;

CREATE FUNCTION refuse_render_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a render cannot go from % to %', OLD.state, NEW.state
        USING ERRCODE = 'check_violation';
END
$$;

CREATE FUNCTION refuse_photo_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a photo cannot go from % to %', OLD.state, NEW.state
        USING ERRCODE = 'check_violation';
END
$$;

CREATE TRIGGER renders_transition BEFORE UPDATE OF state ON renders
    FOR EACH ROW WHEN (OLD.state <> NEW.state AND NOT render_may_become(OLD.state, NEW.state))
    EXECUTE FUNCTION refuse_render_transition();

CREATE TRIGGER photos_transition BEFORE UPDATE OF state ON photos
    FOR EACH ROW WHEN (OLD.state <> NEW.state AND NOT photo_may_become(OLD.state, NEW.state))
    EXECUTE FUNCTION refuse_photo_transition();
